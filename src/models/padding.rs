//! Which frames of a batch belong to an utterance.

use burn::tensor::{Device, Tensor, TensorData};

/// The lengths of a batch at one point of a network, and the mask that follows from them.
#[derive(Debug, Clone)]
pub struct Padding {
    frames: Vec<usize>,
    width: usize,
    mask: Option<Tensor<3>>,
}

impl Padding {
    /// `frames` valid frames an utterance, in a tensor of `width` frames.
    ///
    /// # Panics
    /// When an utterance is longer than the tensor.
    pub fn new(frames: Vec<usize>, width: usize, device: &Device) -> Self {
        assert!(
            frames.iter().all(|&f| f <= width),
            "lengths {frames:?} do not fit a batch of {width} frames"
        );
        let mask = frames.iter().any(|&f| f < width).then(|| {
            let ones = |&f: &usize| (0..width).map(move |t| if t < f { 1.0 } else { 0.0 });
            let values: Vec<f32> = frames.iter().flat_map(ones).collect();
            Tensor::from_data(TensorData::new(values, [frames.len(), 1, width]), device)
        });
        Self { frames, width, mask }
    }

    /// A batch of the same shape in which every frame counts.
    pub fn none(like: &Self) -> Self {
        Self { frames: vec![like.width; like.frames.len()], width: like.width, mask: None }
    }

    /// The lengths after a convolution with `stride`: ceil(L / stride).
    pub fn strided(&self, stride: usize, device: &Device) -> Self {
        if stride == 1 {
            return self.clone();
        }
        let frames = self.frames.iter().map(|f| f.div_ceil(stride)).collect();
        Self::new(frames, self.width.div_ceil(stride), device)
    }

    /// Every utterance `count` times over, one after the other.
    pub fn repeated(&self, count: usize, device: &Device) -> Self {
        let frames = self.frames.iter().flat_map(|&f| std::iter::repeat_n(f, count)).collect();
        Self::new(frames, self.width, device)
    }

    /// 1 for frames of an utterance, 0 beyond, [batch, 1, frames]; `None` when nothing is padded.
    pub fn mask(&self) -> Option<Tensor<3>> {
        self.mask.clone()
    }

    /// Sets `x` [batch, channels, frames] to zero beyond each utterance's end.
    pub fn apply(&self, x: Tensor<3>) -> Tensor<3> {
        match &self.mask {
            Some(mask) => {
                let kind = x.dtype();
                x * mask.clone().cast(kind)
            }
            None => x,
        }
    }

    /// Valid frames of each utterance.
    pub fn frames(&self) -> &[usize] {
        &self.frames
    }
}
