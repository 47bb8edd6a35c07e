//! The LSTM layer on a GPU backend, where it is made of the tensor library's operations.

use burn::tensor::{Device, Tensor, TensorData};
use tutornet::device::DeviceChoice;
use tutornet::kernels::{LstmWeights, Together, bi_lstm};
use tutornet::random::Random;

use crate::harness::not_run;

const LENGTHS: [usize; 4] = [12, 1, 7, 11];

fn noise<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    let mut random = Random::new(seed, "lstm", &[]);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| 0.4 * random.normal() as f32).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Output and all gradients, one after the other.
fn all(device: &Device, together: Together) -> Vec<f32> {
    let device = device.clone().autodiff();
    let (inputs, hidden) = (10, 12);
    let x = noise([4, 13, inputs], 1, &device).require_grad();
    let read = if together.apart { inputs / 2 } else { inputs };
    let [a, b] = [2, 5].map(|seed| LstmWeights {
        input: noise([4 * hidden, read], seed, &device).require_grad(),
        recurrent: noise([4 * hidden, hidden], seed + 1, &device).require_grad(),
        bias: noise([4 * hidden], seed + 2, &device).require_grad(),
    });
    let y = bi_lstm(x.clone(), a.clone(), b.clone(), &LENGTHS, together);
    let of = (y.clone() * noise(y.dims(), 9, &device)).sum().backward();
    fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().try_to_vec().unwrap()
    }
    let mut all = [host(y), host(x.grad(&of).unwrap())].concat();
    for w in [a, b] {
        all.extend(host(w.input.grad(&of).unwrap()));
        all.extend(host(w.recurrent.grad(&of).unwrap()));
        all.extend(host(w.bias.grad(&of).unwrap()));
    }
    all
}

#[test]
fn wgpu_computes_the_layer_that_the_cpu_computes() {
    let name = "lstm: wgpu_computes_the_layer_that_the_cpu_computes";
    let Ok(gpu) = DeviceChoice::Wgpu(None).open() else { return not_run(name, "no Vulkan driver") };
    for (apart, summed) in [(false, false), (true, false), (false, true)] {
        let together = Together { apart, summed };
        let (found, expected) = (all(&gpu, together), all(&Device::flex(), together));
        assert_eq!(found.len(), expected.len());
        let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        let off = norm(&mut found.iter().zip(&expected).map(|(a, b)| a - b));
        assert!(off <= 1e-5 * norm(&mut expected.iter().copied()), "{together:?} {off}");
    }
}
