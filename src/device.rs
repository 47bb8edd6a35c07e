//! Where tensors live: the CPU, a GPU through wgpu, or (with the `cuda` feature) through CUDA.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;

use burn::tensor::{Device, DeviceKind, FloatDType, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What the user asked for with `--device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// A CUDA device if there is one, else a hardware GPU through wgpu, else the CPU.
    #[default]
    Auto,
    /// The CPU, on all threads of the pool.
    Cpu,
    /// The i-th adapter that wgpu lists; the best one when no number is given.
    Wgpu(Option<usize>),
    /// The i-th CUDA device; the first when no number is given.
    Cuda(Option<usize>),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (name, index) = match text.split_once(':') {
            None => (text, None),
            Some((name, index)) => {
                let index = index.parse().map_err(|_| format!("`{index}` is not a device number"))?;
                (name, Some(index))
            }
        };
        match (name, index) {
            ("auto", None) => Ok(Self::Auto),
            ("cpu", None) => Ok(Self::Cpu),
            ("wgpu", index) => Ok(Self::Wgpu(index)),
            ("cuda", index) => Ok(Self::Cuda(index)),
            _ => Err(format!("expected auto, cpu, wgpu[:i] or cuda[:i], found `{text}`")),
        }
    }
}

impl std::fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => write!(f, "auto"),
            Self::Cpu => write!(f, "cpu"),
            Self::Wgpu(None) => write!(f, "wgpu"),
            Self::Wgpu(Some(i)) => write!(f, "wgpu:{i}"),
            Self::Cuda(None) => write!(f, "cuda"),
            Self::Cuda(Some(i)) => write!(f, "cuda:{i}"),
        }
    }
}

impl DeviceChoice {
    /// Opens the device and proves that it computes.
    ///
    /// # Errors
    /// When there is no such device, or its driver fails; the message lists those that work.
    pub fn open(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::flex()),
            Self::Auto => {
                #[cfg(feature = "cuda")]
                if let Ok(device) = probe(Self::Cuda(None)) {
                    tracing::info!("device: cuda");
                    return Ok(device);
                }
                let gpu = probe_hardware();
                tracing::info!("device: {}", if gpu.is_some() { "wgpu" } else { "cpu" });
                Ok(gpu.unwrap_or_else(Device::flex))
            }
            Self::Wgpu(_) | Self::Cuda(_) => probe(self).map_err(|detail| Error::Device {
                device: self.to_string(),
                detail: format!("{detail}; devices that work here: {}", available().join(", ")),
            }),
        }
    }
}

/// Arithmetic of a forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Single precision.
    #[default]
    F32,
    /// Half precision, weights included: half the memory and faster on hardware made for it.
    F16,
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        })
    }
}

impl DeviceChoice {
    /// Like [`DeviceChoice::open`], with every tensor of the device in `precision` from now on. A process
    /// has one precision a device: call this before anything else touches it.
    ///
    /// # Errors
    /// As for [`DeviceChoice::open`], and when the device does not compute in `precision`.
    pub fn open_with(self, precision: Precision) -> Result<Device> {
        if precision == Precision::F32 {
            return self.open();
        }
        let refuse = |detail: String| Error::Device { device: self.to_string(), detail };
        if !matches!(self, Self::Wgpu(_) | Self::Cuda(_)) {
            return Err(refuse(
                "half precision needs a GPU by name: --device wgpu[:i] or cuda[:i]".to_owned(),
            ));
        }
        let quiet = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let mut device = create(self)?;
            if !device.supports_dtype(FloatDType::F16) {
                return Err("it does not compute in half precision; leave --precision out".to_owned());
            }
            device.configure(FloatDType::F16).map_err(|e| e.to_string())?;
            let sum = Tensor::<1>::from_floats([1.0, 2.0, 4.0], &device).sum();
            let sum = sum.into_data().try_into_vec_as::<f32>().map_err(|e| format!("{e:?}"))?;
            if sum == [7.0] { Ok(device) } else { Err(format!("computed 1 + 2 + 4 = {sum:?}")) }
        }));
        std::panic::set_hook(quiet);
        opened
            .unwrap_or_else(|_| Err("not found (no driver, or no such device)".to_owned()))
            .map_err(|detail| refuse(format!("{detail}; devices that work here: {}", available().join(", "))))
    }
}

/// Names of the devices that can be opened on this machine.
pub fn available() -> Vec<String> {
    let mut names = vec!["cpu".to_owned()];
    for choice in [DeviceChoice::Wgpu(None), DeviceChoice::Cuda(None)] {
        if probe(choice).is_ok() {
            names.push(choice.to_string());
        }
    }
    names
}

/// Whether the fused CPU kernels apply to tensors of this device.
pub fn is_cpu(device: &Device) -> bool {
    device.clone().inner() == Device::flex()
}

/// A missing driver panics inside burn (some of it in worker threads), hence `catch_unwind`
/// and a computation whose result is checked.
fn probe(choice: DeviceChoice) -> std::result::Result<Device, String> {
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = catch_unwind(AssertUnwindSafe(|| {
        let device = create(choice)?;
        let sum = Tensor::<1>::from_floats([1.0, 2.0, 4.0], &device).sum();
        let sum = sum.into_data().try_to_vec::<f32>().map_err(|e| format!("{e:?}"))?;
        if sum == [7.0] { Ok(device) } else { Err(format!("computed 1 + 2 + 4 = {sum:?}")) }
    }));
    std::panic::set_hook(quiet);
    result.unwrap_or_else(|_| Err("not found (no driver, or no such device)".to_owned()))
}

fn create(choice: DeviceChoice) -> std::result::Result<Device, String> {
    match choice {
        DeviceChoice::Wgpu(None) => Ok(Device::wgpu(DeviceKind::DefaultDevice)),
        DeviceChoice::Wgpu(Some(index)) => {
            let found = wgpu_devices();
            let count = found.len();
            found.into_iter().nth(index).ok_or_else(|| format!("not found: wgpu lists {count} adapter(s)"))
        }
        #[cfg(feature = "cuda")]
        DeviceChoice::Cuda(index) => Ok(Device::cuda(index.unwrap_or(0))),
        #[cfg(not(feature = "cuda"))]
        DeviceChoice::Cuda(_) => {
            Err("this binary was built without CUDA (cargo build --release --features cuda)".to_owned())
        }
        DeviceChoice::Auto | DeviceChoice::Cpu => Ok(Device::flex()),
    }
}

fn wgpu_devices() -> Vec<Device> {
    Device::enumerate(burn::tensor::DeviceType::Wgpu).into_vec()
}

/// The files through which Linux programs reach a GPU (Mesa, NVIDIA, WSL).
const GPU_NODES: [&str; 3] = ["/dev/dri", "/dev/nvidiactl", "/dev/dxg"];

/// The first wgpu adapter that is a GPU: software rasterisers are slower than the CPU backend.
fn probe_hardware() -> Option<Device> {
    // Without any of them the drivers need not be asked; some then complain on stderr.
    if cfg!(target_os = "linux") && !GPU_NODES.iter().any(|node| std::path::Path::new(node).exists()) {
        return None;
    }
    let devices = catch_unwind(wgpu_devices).ok()?;
    let gpu = [DeviceKind::DiscreteGpu(0), DeviceKind::IntegratedGpu(0)];
    let gpu = gpu.into_iter().map(Device::wgpu).find(|d| devices.contains(d))?;
    let computes = catch_unwind(AssertUnwindSafe(|| {
        Tensor::<1>::from_floats([1.0, 2.0], &gpu).sum().into_data().try_to_vec::<f32>()
    }));
    matches!(computes, Ok(Ok(sum)) if sum == [3.0]).then_some(gpu)
}
