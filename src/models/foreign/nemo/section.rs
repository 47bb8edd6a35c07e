//! A section of `model_config.yaml` of which every key must be asked for.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Reads the text as a mapping.
///
/// # Errors
/// When it is not YAML, or no mapping.
pub fn parse(text: &str) -> Result<Map<String, Value>> {
    // YAML 1.1 takes the labels `n` and `y` for false and true; PyYAML, which wrote them, does not.
    let options = serde_saphyr::options! { strict_booleans: true };
    match serde_saphyr::from_str_with_options::<Value>(text, options) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Error::invalid("model_config.yaml: expected a mapping at the top")),
        Err(e) => Err(Error::invalid(format!("model_config.yaml is not valid YAML: {e}"))),
    }
}

/// One mapping, with the path to it and the keys that were asked for.
pub struct Section<'a> {
    path: String,
    map: &'a Map<String, Value>,
    asked: RefCell<BTreeSet<String>>,
}

impl<'a> Section<'a> {
    /// `path` is how errors name the section.
    pub fn new(path: impl Into<String>, map: &'a Map<String, Value>) -> Self {
        Self { path: path.into(), map, asked: RefCell::default() }
    }

    /// The section under `key`, which must be there. NeMo before 1.0 put the settings of a
    /// section into its `params` and the class into `cls`.
    ///
    /// # Errors
    /// When it is missing or no mapping.
    pub fn section(&self, key: &str) -> Result<Section<'a>> {
        match self.get(key) {
            Some(Value::Object(map)) => match map.get("params") {
                Some(Value::Object(params)) => Ok(Section::new(format!("{}.params", self.at(key)), params)),
                _ => Ok(Section::new(self.at(key), map)),
            },
            found => Err(self.wrong(key, "a section", found)),
        }
    }

    /// The class that a section configures: the last part of its `_target_` or `cls`.
    pub fn class(&self, key: &str) -> Option<&'a str> {
        let section = self.map.get(key)?.as_object()?;
        let name = section.get("_target_").or_else(|| section.get("cls"))?.as_str()?;
        name.rsplit('.').next()
    }

    /// The value of a key; `None` when it is absent or null.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.asked.borrow_mut().insert(key.to_owned());
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Keys that change nothing that is computed here.
    pub fn ignore(&self, keys: &[&str]) {
        self.asked.borrow_mut().extend(keys.iter().map(|&key| key.to_owned()));
    }

    /// A whole number, or the default.
    ///
    /// # Errors
    /// When it is something else.
    pub fn count(&self, key: &str, default: Option<usize>) -> Result<usize> {
        match (self.get(key), default) {
            (None, Some(default)) => Ok(default),
            (found, _) => {
                let number = found.and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
                number.ok_or_else(|| self.wrong(key, "a whole number", found))
            }
        }
    }

    /// A whole number, possibly as the only entry of a list.
    ///
    /// # Errors
    /// When it is something else.
    pub fn single(&self, key: &str, default: Option<usize>) -> Result<usize> {
        match self.get(key) {
            Some(Value::Array(list)) => match list.as_slice() {
                [value] => value.as_u64().and_then(|n| usize::try_from(n).ok()),
                _ => None,
            }
            .ok_or_else(|| self.wrong(key, "one whole number", self.map.get(key))),
            _ => self.count(key, default),
        }
    }

    /// A number, or the default.
    ///
    /// # Errors
    /// When it is something else.
    pub fn number(&self, key: &str, default: f64) -> Result<f64> {
        match self.get(key) {
            None => Ok(default),
            found => found.and_then(Value::as_f64).ok_or_else(|| self.wrong(key, "a number", found)),
        }
    }

    /// True or false, or the default.
    ///
    /// # Errors
    /// When it is something else.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            found => found.and_then(Value::as_bool).ok_or_else(|| self.wrong(key, "true or false", found)),
        }
    }

    /// Requires a number where the key is present.
    ///
    /// # Errors
    /// When the value is another one.
    pub fn fixed_number(&self, key: &str, expected: f64) -> Result<()> {
        let found = self.number(key, expected)?;
        if (found - expected).abs() <= 1e-9 * expected.abs().max(1.0) {
            return Ok(());
        }
        Err(self.unsupported(key, &expected.to_string()))
    }

    /// Requires one of some texts where the key is present.
    ///
    /// # Errors
    /// When the value is another one.
    pub fn fixed_text(&self, key: &str, expected: &[&str]) -> Result<()> {
        match self.get(key) {
            None => Ok(()),
            Some(Value::String(found)) if expected.contains(&found.as_str()) => Ok(()),
            Some(_) => Err(self.unsupported(key, &expected.join(" or "))),
        }
    }

    /// Requires true or false where the key is present.
    ///
    /// # Errors
    /// When the value is another one.
    pub fn fixed_flag(&self, key: &str, expected: bool) -> Result<()> {
        if self.flag(key, expected)? == expected {
            Ok(())
        } else {
            Err(self.unsupported(key, &expected.to_string()))
        }
    }

    /// Refuses every key that was not asked for.
    ///
    /// # Errors
    /// Names the keys.
    pub fn finish(self) -> Result<()> {
        let asked = self.asked.into_inner();
        let unknown: Vec<String> =
            self.map.keys().filter(|key| !asked.contains(*key)).map(|key| join(&self.path, key)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "model_config.yaml: unknown setting {}: it may change what the model computes, so the model is refused",
            unknown.join(", ")
        )))
    }

    /// A value that this program has no counterpart for.
    pub fn unsupported(&self, key: &str, expected: &str) -> Error {
        let found = self.map.get(key).map_or("nothing".to_owned(), Value::to_string);
        Error::invalid(format!(
            "model_config.yaml: {} = {found} is not supported: expected {expected}",
            self.at(key)
        ))
    }

    fn wrong(&self, key: &str, expected: &str, found: Option<&Value>) -> Error {
        let found = found.map_or("nothing".to_owned(), Value::to_string);
        Error::invalid(format!("model_config.yaml: {}: expected {expected}, found {found}", self.at(key)))
    }

    fn at(&self, key: &str) -> String {
        join(&self.path, key)
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
