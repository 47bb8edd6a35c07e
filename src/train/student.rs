//! Builds the student that a pipeline names: a preset, a model directory or a model.toml.

use std::path::Path;

use burn::tensor::Device;

use super::pipeline::{Pipeline, Student};
use crate::corpus::Manifest;
use crate::error::{Error, Result};
use crate::models::{Model, ModelConfig, presets};

/// The student with its initial weights. That of a preset has heard nothing yet: it takes the frontend of the first
/// training corpus.
///
/// # Errors
/// When the name is neither a preset nor a path, width or padding is asked of trained weights, or there is no such
/// corpus.
pub fn build(pipeline: &Pipeline, device: &Device) -> Result<Model> {
    let student = &pipeline.student;
    let path = Path::new(&student.preset);
    if path.is_dir() {
        if (student.width - 1.0).abs() > f64::EPSILON {
            return Err(Error::invalid(format!(
                "student.width: {} holds trained weights, whose width is fixed; remove `width`",
                student.preset
            )));
        }
        let model = Model::load(path, device)?;
        if student.padding.is_some_and(|padding| padding != model.config.padding()) {
            return Err(Error::invalid(format!(
                "student.padding: {} holds weights trained with padding {}; remove `padding`",
                student.preset,
                model.config.padding()
            )));
        }
        let mut config = model.config.clone();
        settle(&mut config, student);
        return model.with_config(config, device);
    }
    let mut config = if path.is_file() {
        ModelConfig::read(path)?
    } else {
        let mut config = presets::find(&student.preset)?;
        if let Some(first) = pipeline.data.train.first() {
            config.frontend = Manifest::read(first)?.0.frontend;
        }
        config
    };
    if (student.width - 1.0).abs() > f64::EPSILON {
        config = config.with_width(student.width)?;
    }
    settle(&mut config, student);
    Model::new(config, pipeline.seed, device)
}

fn settle(config: &mut ModelConfig, student: &Student) {
    if let Some(dropout) = student.dropout {
        config.set_dropout(dropout);
    }
    let norm = config.norm_mut();
    norm.statistics = student.batch_norm;
    if let Some(momentum) = student.batch_norm_momentum {
        norm.momentum = momentum;
    }
    if let Some(padding) = student.padding {
        *config.padding_mut() = padding;
    }
}
