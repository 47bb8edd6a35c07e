//! Whole networks: a training step as the trainer takes it, and a teacher's forward pass.

use std::collections::BTreeMap;

use burn::tensor::{Device, Gradients, Tensor};
use serde_json::json;
use tutornet::distill::Bridge;
use tutornet::models::jasper::StridePadding;
use tutornet::models::parameters::{self, HostTensor, UpdateTensor};
use tutornet::models::{Architecture, HiddenLayer, Mode, Model, ModelConfig, TrainState, presets};
use tutornet::random::Random;
use tutornet::train::objective::Objective;
use tutornet::train::optimizer::{NamedGradients, Optimizer};
use tutornet::train::pipeline::Stage;
use tutornet::train::profile::Profile;
use tutornet::train::recipe::{self, Rule};
use tutornet::train::step::{Place, forward_backward};
use tutornet::train::stream::{Batch, HiddenTarget};

use super::tensors::{Named, Tensors};
use super::{Row, Work, real};
use real::Padded;

const LABELS: usize = 29;

fn config(row: &Row) -> ModelConfig {
    if let Some(preset) = row.parameters.get("preset").and_then(serde_json::Value::as_str) {
        // PyTorch's networks beside ours pad symmetrically.
        let mut config = presets::find(preset).expect("a preset");
        *config.padding_mut() = StridePadding::Symmetric;
        return config;
    }
    let mut config = presets::find("jasper-mini").expect("a preset");
    config.architecture = Architecture::Jasper(row.get("network"));
    config
}

/// Initial weights and the batch: a real one where the row names a corpus, otherwise a drawn one.
pub fn prepare(row: &Row) -> Vec<Named> {
    let model = Model::new(config(row), 1, &Device::flex()).expect("a model");
    let mut named: Vec<Named> = parameters::export(&model.network)
        .expect("weights")
        .into_iter()
        .map(|(name, tensor)| trained(&name, tensor))
        .collect();
    let batch = match (row.kind.as_str(), row.parameters.contains_key("corpus")) {
        ("forward", true) => real::speech(row),
        ("forward", false) => noise(&row.get::<Vec<Padded>>("batches")),
        (_, true) => real::batch(row, &model),
        (_, false) => drawn(row, &model),
    };
    if row.kind == "step" {
        let teacher = batch.iter().find(|t| t.name == "hidden").map_or(0, |t| t.shape[1]);
        let bridge = Bridge::new(model.hidden_width(), teacher, 1, 1, &Device::flex());
        for (name, tensor) in parameters::export(&bridge).expect("weights") {
            named.push(trained(&format!("bridge.{name}"), tensor));
        }
    }
    named.extend(batch);
    named
}

/// Features as after normalisation, a tensor for each batch.
fn noise(batches: &[Padded]) -> Vec<Named> {
    let one = |(index, Padded { frames, padded, .. }): (usize, &Padded)| {
        let mut features = Named::normal(&format!("features.{index}"), &[frames.len(), 64, *padded], 1.0);
        for (row, values) in features.values.chunks_exact_mut(*padded).enumerate() {
            values[frames[row / 64]..].fill(0.0);
        }
        features
    };
    batches.iter().enumerate().map(one).collect()
}

/// Features, a teacher's hidden states about half zero, and posteriors with a peak.
fn drawn(row: &Row, model: &Model) -> Vec<Named> {
    let frames: Vec<usize> = row.get("frames");
    let (batch, padded): (usize, usize) = (frames.len(), row.get("padded"));
    let features = noise(&[Padded { frames: frames.clone(), padded, indices: Vec::new() }]).remove(0);
    let features = Named::new("features", &features.shape, features.values);
    let outputs = model.output_frames(padded);
    let valid: Vec<usize> = frames.iter().map(|&f| model.output_frames(f)).collect();
    let mut hidden = Named::normal("hidden", &[batch, model.hidden_width(), outputs], 1.0);
    hidden.values.iter_mut().for_each(|v| *v = v.max(0.0));
    let mut weight = Named::normal("weight", &[batch, 1, outputs], 1.0);
    for (row, values) in weight.values.chunks_exact_mut(outputs).enumerate() {
        values.iter_mut().for_each(|v| *v = 1.0 / (1.0 + (-*v).exp()));
        values[valid[row]..].fill(0.0);
    }
    let mut posterior = Named::normal("posterior", &[batch, outputs, LABELS], 4.0);
    for frame in posterior.values.chunks_exact_mut(LABELS) {
        let top = frame.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        frame.iter_mut().for_each(|v| *v = (*v - top).exp());
        let sum: f32 = frame.iter().sum();
        frame.iter_mut().for_each(|v| *v /= sum);
    }
    vec![features, hidden, weight, posterior]
}

/// An initial tensor as training might have moved it: shifts and means away from zero, where the sign of
/// Adam's first step would be all there is to compare.
fn trained(name: &str, tensor: HostTensor) -> Named {
    let name = format!("weights.{name}");
    if tensor.values.iter().all(|&v| v == 0.0) {
        return Named::normal(&name, &tensor.shape, 0.1);
    }
    Named::new(&name, &tensor.shape, tensor.values)
}

/// The model with the weights of a file.
fn model(row: &Row, inputs: &Tensors, device: &Device) -> Model {
    let mut model = Model::new(config(row), 1, device).expect("a model");
    let weights = weights(inputs, "weights.", &parameters::shapes(&model.network));
    model.network = parameters::import(model.network, weights).expect("the weights of this network");
    model
}

fn weights(
    inputs: &Tensors,
    prefix: &str,
    shapes: &[parameters::TensorShape],
) -> BTreeMap<String, HostTensor> {
    let tensor = |shape: &parameters::TensorShape| {
        let values = inputs.host(&format!("{prefix}{}", shape.name)).values.clone();
        HostTensor { shape: shape.shape.clone(), values, trainable: shape.trainable }
    };
    shapes.iter().map(|shape| (shape.name.clone(), tensor(shape))).collect()
}

/// Forward passes in evaluation, batch after batch.
#[derive(Debug)]
pub struct Forward {
    model: Model,
    batches: Vec<(Tensor<3>, Vec<usize>)>,
}

impl Forward {
    /// With the weights and features of a file.
    pub fn load(row: &Row, inputs: &Tensors) -> Self {
        let device = super::device();
        let padded: Vec<Padded> = row.get("batches");
        let features = |index: usize| inputs.tensor(&format!("features.{index}"), &device);
        let batches = padded.into_iter().enumerate().map(|(i, batch)| (features(i), batch.frames)).collect();
        Self { model: model(row, inputs, &device), batches }
    }
}

impl Work for Forward {
    fn run(&mut self) {
        for (features, frames) in &self.batches {
            let output = self.model.forward(features.clone(), frames, Mode::Evaluate);
            std::hint::black_box(output.logits.into_data());
        }
    }

    fn outputs(&mut self) -> Vec<Named> {
        let one = |(index, (features, frames)): (usize, &(Tensor<3>, Vec<usize>))| {
            let output = self.model.forward(features.clone(), frames, Mode::Evaluate);
            // Beyond an utterance's end the values mean nothing.
            let mut logits = Named::of(&format!("logits.{index}"), output.logits);
            let padded = logits.shape[1];
            for (values, frames) in logits.values.chunks_exact_mut(padded * LABELS).zip(&output.frames) {
                values[frames * LABELS..].fill(0.0);
            }
            logits
        };
        self.batches.iter().enumerate().map(one).collect()
    }
}

/// One update: forward, loss, backward, optimiser, running statistics.
#[derive(Debug)]
pub struct Step {
    model: Model,
    bridge: Option<Bridge>,
    optimizer: Optimizer,
    stage: Stage,
    rate: f64,
    row: Row,
    host: Host,
    batch: Option<Batch>,
    device: Device,
}

/// The batch's tensors; a step consumes a copy.
#[derive(Debug)]
struct Host {
    features: Vec<f32>,
    target: HiddenTarget,
    posterior: Vec<f32>,
}

impl Step {
    /// With the weights and the batch of a file.
    pub fn load(row: &Row, inputs: &Tensors) -> Self {
        let device = super::device().autodiff();
        let stage: Stage = serde_json::from_value(json!({ "objective": row.get::<String>("objective") }))
            .expect("an objective");
        let model = model(row, inputs, &device);
        let bridge = (stage.objective == Objective::Rkd).then(|| {
            let teacher = inputs.host("hidden").shape[1];
            let bridge = Bridge::new(model.hidden_width(), teacher, 1, 1, &device);
            let weights = weights(inputs, "weights.bridge.", &parameters::shapes(&bridge));
            parameters::import(bridge, weights).expect("a bridge")
        });
        let settings = recipe::Optimizer {
            name: Rule::AdamW,
            learning_rate: row.get("learning_rate"),
            weight_decay: row.get("weight_decay"),
            ..recipe::Optimizer::default()
        };
        let take = |name: &str, needed: bool| {
            if needed { inputs.host(name).values.clone() } else { Vec::new() }
        };
        let rkd = stage.objective == Objective::Rkd;
        let host = Host {
            features: take("features", true),
            target: HiddenTarget { values: take("hidden", rkd), weight: take("weight", rkd) },
            posterior: take("posterior", stage.objective == Objective::CtcSkd),
        };
        let optimizer = Optimizer::new(&settings);
        let rate = settings.learning_rate;
        let row = row.clone();
        Self { model, bridge, optimizer, stage, rate, row, host, batch: None, device }
    }

    /// The batch as the reading threads hand it to the trainer.
    fn assemble(&self) -> Batch {
        let frames: Vec<usize> = self.row.get("frames");
        let padded_frames: usize = self.row.get("padded");
        Batch {
            utterances: (0..frames.len()).map(|i| i.to_string()).collect(),
            features: self.host.features.clone(),
            target_frames: frames.iter().map(|&f| self.model.output_frames(f)).collect(),
            frames,
            padded_frames,
            padded_targets: self.model.output_frames(padded_frames),
            text: self.row.get("targets"),
            hidden: self.bridge.iter().map(|_| self.host.target.clone()).collect(),
            posterior: self.host.posterior.clone(),
            nbest: Vec::new(),
            corrupt: Vec::new(),
        }
    }

    /// Loss and graph of the batch, and what the batch norms saw.
    fn pass(&mut self) -> (f64, Gradients, TrainState) {
        let batch = self.batch.take().unwrap_or_else(|| self.assemble());
        let statistics = self.model.config.norm().statistics;
        let mut state = TrainState::new(statistics, Random::new(1, "dropout", &[]));
        let layers: Vec<HiddenLayer> = self.stage.pairs().iter().map(|pair| pair.student).collect();
        let profile = Profile::new(false);
        let place = Place { settings: &self.stage, layers: &layers, device: &self.device, profile: &profile };
        let (losses, graph) =
            forward_backward(&self.model, self.bridge.as_slice(), batch, &mut state, place).expect("a step");
        (losses.total, graph.expect("a finite loss"), state)
    }

    /// Moves the weights as the trainer does.
    fn apply(&mut self, graph: &Gradients, state: TrainState) {
        let mut gradients = NamedGradients::default();
        parameters::map(self.model.network.clone(), &mut gradients.collector(graph, ""));
        if let Some(bridge) = self.bridge.clone() {
            parameters::map(bridge, &mut gradients.collector(graph, "bridge."));
        }
        gradients.batch_done();
        assert!(gradients.norm().is_finite(), "the trainer refuses such a step");
        self.optimizer.begin_step();
        let mut stepper = self.optimizer.stepper(&mut gradients, self.rate, "");
        self.model.network = parameters::map(self.model.network.clone(), &mut stepper);
        drop(stepper);
        if let Some(bridge) = self.bridge.take() {
            let mut stepper = self.optimizer.stepper(&mut gradients, self.rate, "bridge.");
            self.bridge = Some(parameters::map(bridge, &mut stepper));
        }
        let momentum = self.model.config.momentum();
        self.model.apply_statistics(state.statistics, momentum).expect("statistics of this network");
    }

    fn weights(&self) -> Vec<Named> {
        let mut all: Vec<(String, HostTensor)> =
            parameters::export(&self.model.network).expect("weights").into_iter().collect();
        if let Some(bridge) = &self.bridge {
            let bridge = parameters::export(bridge).expect("weights");
            all.extend(bridge.into_iter().map(|(name, tensor)| (format!("bridge.{name}"), tensor)));
        }
        all.into_iter().map(|(name, t)| Named::new(&format!("after.{name}"), &t.shape, t.values)).collect()
    }
}

impl Work for Step {
    fn make_ready(&mut self) {
        self.batch = Some(self.assemble());
    }

    fn run(&mut self) {
        let (_, graph, state) = self.pass();
        self.apply(&graph, state);
    }

    fn outputs(&mut self) -> Vec<Named> {
        let (loss, graph, state) = self.pass();
        let mut found = Found { graph: &graph, prefix: "gradient.", named: Vec::new() };
        parameters::map(self.model.network.clone(), &mut found);
        if let Some(bridge) = self.bridge.clone() {
            found.prefix = "gradient.bridge.";
            parameters::map(bridge, &mut found);
        }
        let mut outputs = found.named;
        self.apply(&graph, state);
        outputs.extend(self.weights());
        #[expect(clippy::cast_possible_truncation, reason = "the file holds f32")]
        outputs.push(Named::new("loss", &[1], vec![loss as f32]));
        outputs
    }
}

/// Visitor that keeps the gradients of the tensors that have one.
struct Found<'a> {
    graph: &'a Gradients,
    prefix: &'a str,
    named: Vec<Named>,
}

impl UpdateTensor for Found<'_> {
    fn update<const D: usize>(&mut self, name: &str, trainable: bool, tensor: Tensor<D>) -> Tensor<D> {
        if let (true, Some(gradient)) = (trainable, tensor.grad(self.graph)) {
            self.named.push(Named::of(&format!("{}{name}", self.prefix), gradient));
        }
        tensor
    }
}
