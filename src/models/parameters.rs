//! Every tensor of a network under a stable dotted name, such as `blocks.3.layers.0.norm.gamma`.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};

use crate::error::{Error, Result};

/// A tensor in host memory.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Lengths of its dimensions.
    pub shape: Vec<usize>,
    /// Its values, last dimension fastest.
    pub values: Vec<f32>,
    /// Whether training changes it; running statistics are not.
    pub trainable: bool,
}

/// Name and shape of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorShape {
    /// Dotted path.
    pub name: String,
    /// Lengths of its dimensions.
    pub shape: Vec<usize>,
    /// Whether training changes it.
    pub trainable: bool,
}

/// Something that replaces tensors one by one: an optimiser, for one.
pub trait UpdateTensor {
    /// The new value of the tensor `name`. On an autodiff device `tensor` is the leaf whose
    /// gradient `tensor.grad(..)` finds; the result may live on either side of autodiff.
    fn update<const D: usize>(&mut self, name: &str, trainable: bool, tensor: Tensor<D>) -> Tensor<D>;
}

/// Path of the tensor that a traversal is at.
#[derive(Default)]
struct Path(Vec<Option<String>>);

impl Path {
    /// The variants of [`Network`] leave no trace in the names.
    fn enter(&mut self, name: &str, container: &str) {
        self.0.push((!container.starts_with("Enum:")).then(|| name.to_owned()));
    }

    fn exit(&mut self) {
        self.0.pop();
    }

    fn name(&self) -> String {
        self.0.iter().flatten().cloned().collect::<Vec<_>>().join(".")
    }
}

macro_rules! follow_path {
    () => {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name, container);
        }

        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.exit();
        }
    };
}

/// Names and shapes in the order of a traversal; allocates nothing.
pub fn shapes<M: Module>(network: &M) -> Vec<TensorShape> {
    #[derive(Default)]
    struct Shapes {
        path: Path,
        found: Vec<TensorShape>,
    }
    impl ModuleVisitor for Shapes {
        follow_path!();

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let name = self.path.name();
            let trainable = is_trainable(&name);
            self.found.push(TensorShape { name, shape: param.lazy_shape().to_vec(), trainable });
        }
    }
    let mut visitor = Shapes::default();
    network.visit(&mut visitor);
    visitor.found
}

/// A tensor of a network that is copied to the host when it is asked for.
pub struct Handle {
    /// Lengths of its dimensions.
    pub shape: Vec<usize>,
    /// Whether training changes it.
    pub trainable: bool,
    read: Box<dyn Fn() -> Result<Vec<f32>>>,
}

impl Handle {
    /// Its values, last dimension fastest.
    ///
    /// # Errors
    /// When the device cannot deliver it; it is named.
    pub fn read(&self) -> Result<Vec<f32>> {
        (self.read)()
    }
}

/// Every tensor by its name, none copied yet.
pub fn handles<M: Module>(network: &M) -> BTreeMap<String, Handle> {
    #[derive(Default)]
    struct Handles {
        path: Path,
        found: BTreeMap<String, Handle>,
    }
    impl ModuleVisitor for Handles {
        follow_path!();

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let name = self.path.name();
            let (tensor, trainable) = (param.val(), is_trainable(&name));
            let (shape, what) = (tensor.dims().to_vec(), name.clone());
            let read = move || {
                let values = tensor.clone().into_data().convert::<f32>().try_to_vec::<f32>();
                values.map_err(|e| Error::invalid(format!("{what} could not be read from the device: {e:?}")))
            };
            self.found.insert(name, Handle { shape, trainable, read: Box::new(read) });
        }
    }
    let mut visitor = Handles::default();
    network.visit(&mut visitor);
    visitor.found
}

/// Copies every tensor to the host.
///
/// # Errors
/// When the device cannot deliver one; it is named.
pub fn export<M: Module>(network: &M) -> Result<BTreeMap<String, HostTensor>> {
    let host = |(name, handle): (String, Handle)| {
        let values = handle.read()?;
        Ok((name, HostTensor { shape: handle.shape, values, trainable: handle.trainable }))
    };
    handles(network).into_iter().map(host).collect()
}

/// Replaces every tensor of a network by the one of the same name.
///
/// # Errors
/// Names all tensors that are missing, that the network does not have, or whose shape differs.
pub fn import<M: Module>(network: M, tensors: BTreeMap<String, HostTensor>) -> Result<M> {
    struct Import {
        path: Path,
        tensors: BTreeMap<String, HostTensor>,
        wrong: Vec<String>,
    }
    impl ModuleMapper for Import {
        follow_path!();

        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let name = self.path.name();
            let expected = param.lazy_shape().to_vec();
            let Some(tensor) = self.tensors.remove(&name) else {
                self.wrong.push(format!("{name} {expected:?} is missing"));
                return param;
            };
            if tensor.shape != expected || tensor.values.len() != expected.iter().product::<usize>() {
                self.wrong.push(format!("{name}: expected shape {expected:?}, found {:?}", tensor.shape));
                return param;
            }
            let data = TensorData::new(tensor.values, expected);
            let value = Tensor::from_data(data, &param.lazy_device());
            let id = param.id;
            param.transform_for_load(value, id)
        }
    }
    let mut mapper = Import { path: Path::default(), tensors, wrong: Vec::new() };
    let network = network.map(&mut mapper);
    let surplus =
        mapper.tensors.iter().map(|(name, t)| format!("{name} {:?} is not part of the network", t.shape));
    mapper.wrong.extend(surplus);
    if mapper.wrong.is_empty() {
        return Ok(network);
    }
    Err(Error::invalid(format!("tensors do not fit the network: {}", mapper.wrong.join("; "))))
}

/// Lets `update` replace every tensor, in an order that never changes.
pub fn map<M: Module, U: UpdateTensor>(network: M, update: &mut U) -> M {
    struct Update<'a, U> {
        path: Path,
        update: &'a mut U,
    }
    impl<U: UpdateTensor> ModuleMapper for Update<'_, U> {
        follow_path!();

        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let name = self.path.name();
            let trainable = is_trainable(&name);
            let (id, tensor, mapper) = param.consume();
            let autodiff = tensor.is_autodiff();
            let tensor = self.update.update(&name, trainable, tensor).without_autodiff();
            let tensor = if autodiff { tensor.autodiff().set_require_grad(trainable) } else { tensor };
            Param::from_mapped_value(id, tensor, mapper)
        }
    }
    network.map(&mut Update { path: Path::default(), update })
}

/// The statistics that [`super::Model::apply_statistics`] moves are the only tensors that no
/// optimiser changes. Told by name, because it must hold on a copy without gradients as well.
fn is_trainable(name: &str) -> bool {
    !name.rsplit('.').next().is_some_and(|last| last.starts_with("running_"))
}
