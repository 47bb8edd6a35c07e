//! Convolutions, CTC and batch norm against PyTorch in double precision (`tests/golden/kernels.py`), on the
//! CPU and, where there is a driver and the kernel has a form for it, through wgpu.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use tutornet::device::DeviceChoice;
use tutornet::kernels::{Conv1dOptions, Conv2dOptions, NormOptions, batch_norm, conv1d, conv2d, ctc_loss};

use crate::harness::not_run;

#[derive(Debug, Deserialize)]
struct Case {
    name: String,
    kind: String,
    #[serde(default)]
    stride: Vec<usize>,
    #[serde(default)]
    padding: Vec<(usize, usize)>,
    #[serde(default)]
    dilation: Vec<usize>,
    #[serde(default)]
    groups: usize,
    #[serde(default)]
    frames: Vec<usize>,
    #[serde(default)]
    targets: Vec<Vec<u32>>,
    #[serde(default)]
    blank: usize,
    #[serde(default)]
    epsilon: f64,
    #[serde(default)]
    counted: Option<Vec<usize>>,
    #[serde(default)]
    rectified: Option<Vec<usize>>,
}

/// What one case computes, by the names of the golden file.
type Results = Vec<(&'static str, Vec<f32>)>;

fn golden_bytes(file: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/kernels").join(file);
    std::fs::read(path).unwrap()
}

fn cases(bytes: &[u8]) -> Vec<Case> {
    let (_, header) = SafeTensors::read_metadata(bytes).unwrap();
    let text = header.metadata().as_ref().unwrap().get("cases").unwrap();
    serde_json::from_str(text).unwrap()
}

/// Values of a golden tensor, as they are written: f32 inputs, f64 results.
fn values(file: &SafeTensors<'_>, name: &str) -> (Vec<usize>, Vec<f64>) {
    let view = file.tensor(name).unwrap();
    let values = match view.dtype() {
        Dtype::F32 => {
            bytemuck::pod_collect_to_vec::<u8, f32>(view.data()).into_iter().map(f64::from).collect()
        }
        Dtype::F64 => bytemuck::pod_collect_to_vec::<u8, f64>(view.data()),
        other => panic!("{name}: {other:?}"),
    };
    (view.shape().to_vec(), values)
}

fn tensor<const D: usize>(file: &SafeTensors<'_>, name: &str, device: &Device) -> Tensor<D> {
    let (shape, values) = values(file, name);
    let values: Vec<f32> = values.into_iter().map(|v| v as f32).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

fn convolution<const D: usize>(
    file: &SafeTensors<'_>,
    name: &str,
    device: &Device,
    convolve: impl Fn(Tensor<D>, Tensor<D>) -> Tensor<D>,
) -> Results {
    let read = |key: &str| tensor::<D>(file, &format!("{name}.{key}"), device);
    let (x, weight) = (read("x").require_grad(), read("weight").require_grad());
    let y = convolve(x.clone(), weight.clone());
    assert_eq!(y.dims().to_vec(), values(file, &format!("{name}.y")).0, "{name}");
    let gradients = (y.clone() * read("upstream")).sum().backward();
    vec![
        ("y", host(y.inner())),
        ("dx", host(x.grad(&gradients).unwrap())),
        ("dweight", host(weight.grad(&gradients).unwrap())),
    ]
}

fn compute(file: &SafeTensors<'_>, case: &Case, device: &Device) -> Results {
    match case.kind.as_str() {
        "conv1d" => {
            let options = Conv1dOptions {
                stride: case.stride[0],
                padding: case.padding[0],
                dilation: case.dilation[0],
                groups: case.groups,
            };
            convolution(file, &case.name, device, |x, weight| conv1d(x, weight, &options))
        }
        "conv2d" => {
            let options = Conv2dOptions {
                stride: [case.stride[0], case.stride[1]],
                padding: [case.padding[0], case.padding[1]],
                dilation: [case.dilation[0], case.dilation[1]],
            };
            convolution(file, &case.name, device, |x, weight| conv2d(x, weight, &options))
        }
        "ctc" => {
            let logits = tensor::<3>(file, &format!("{}.logits", case.name), device).require_grad();
            let loss = ctc_loss(logits.clone(), &case.frames, &case.targets, case.blank);
            let gradients = loss.clone().sum().backward();
            vec![("loss", host(loss.inner())), ("dlogits", host(logits.grad(&gradients).unwrap()))]
        }
        "norm" => {
            let read = |key: &str| tensor::<1>(file, &format!("{}.{key}", case.name), device);
            let x = tensor::<3>(file, &format!("{}.x", case.name), device).require_grad();
            let (gamma, beta) = (read("gamma").require_grad(), read("beta").require_grad());
            let options = NormOptions {
                epsilon: case.epsilon,
                counted: case.counted.clone(),
                rectified: case.rectified.clone(),
            };
            let normalised = batch_norm(x.clone(), gamma.clone(), beta.clone(), &options);
            let upstream = tensor::<3>(file, &format!("{}.upstream", case.name), device);
            let gradients = (normalised.y.clone() * upstream).sum().backward();
            vec![
                ("y", host(normalised.y.inner())),
                ("mean", host(normalised.mean.inner())),
                ("variance", host(normalised.variance.inner())),
                ("dx", host(x.grad(&gradients).unwrap())),
                ("dgamma", host(gamma.grad(&gradients).unwrap())),
                ("dbeta", host(beta.grad(&gradients).unwrap())),
            ]
        }
        other => panic!("{other}"),
    }
}

/// ||ours - golden|| / ||golden||
fn relative(ours: &[f32], golden: &[f64]) -> f64 {
    assert_eq!(ours.len(), golden.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut ours.iter().zip(golden).map(|(a, b)| f64::from(*a) - b));
    difference / norm(&mut golden.iter().copied()).max(1e-12)
}

fn compare(file: &str, device: &Device, tolerance: f64) {
    let bytes = golden_bytes(file);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for case in cases(&bytes) {
        for (key, ours) in compute(&file, &case, device) {
            let (_, golden) = values(&file, &format!("{}.{key}", case.name));
            if golden.iter().all(|&v| v == 0.0) {
                assert!(ours.iter().all(|v| v.abs() < 1e-6), "{} {key}: {ours:?}", case.name);
                continue;
            }
            let off = relative(&ours, &golden);
            assert!(off <= tolerance, "{} {key}: {off:.2e} of the norm", case.name);
        }
    }
}

#[test]
fn equal_pytorch_in_double_precision() {
    compare("conv.safetensors", &Device::flex().autodiff(), 1e-5);
    compare("norm.safetensors", &Device::flex().autodiff(), 1e-5);
}

#[test]
fn equal_pytorch_in_double_precision_on_wgpu() {
    match DeviceChoice::Wgpu(None).open() {
        Ok(device) => compare("conv.safetensors", &device.autodiff(), 1e-5),
        Err(_) => not_run("kernels: equal_pytorch_in_double_precision_on_wgpu", "no Vulkan driver"),
    }
}

/// The same bits whatever the number of threads.
#[test]
fn threads_change_no_bit() {
    ["conv.safetensors", "norm.safetensors"].into_iter().for_each(same_bits);
}

fn same_bits(file: &str) {
    let bytes = golden_bytes(file);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let on = |threads: usize| -> Vec<Results> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let device = Device::flex().autodiff();
        pool.install(|| cases(&bytes).iter().map(|case| compute(&file, case, &device)).collect())
    };
    let one = on(1);
    assert_eq!(one, on(2));
    assert_eq!(one, on(5));
}
