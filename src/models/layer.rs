//! Which of a network's outputs are hidden states: the last layer's, or an inner one's.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A layer whose output can be distilled: `"last"`, or the number K of `blocks.K` (Jasper) or `layers.K` (the
/// recurrent layers of DeepSpeech 2), as `tutornet inspect MODEL` lists them, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HiddenLayer {
    /// An inner layer.
    Inner(u32),
    /// What the logits are computed from.
    Last,
}

impl fmt::Display for HiddenLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Last => f.write_str("last"),
            Self::Inner(number) => number.fmt(f),
        }
    }
}

impl FromStr for HiddenLayer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "last" => Ok(Self::Last),
            number => number
                .parse()
                .map(Self::Inner)
                .map_err(|_| format!("expected `last` or the number of a layer, found `{text}`")),
        }
    }
}

impl Serialize for HiddenLayer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Last => serializer.serialize_str("last"),
            Self::Inner(number) => serializer.serialize_u32(*number),
        }
    }
}

impl<'de> Deserialize<'de> for HiddenLayer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = HiddenLayer;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"last\" or the number of a layer")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<HiddenLayer, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<HiddenLayer, E> {
                let number = u32::try_from(number);
                number
                    .map(HiddenLayer::Inner)
                    .map_err(|_| E::custom("expected \"last\" or the number of a layer, found one below 0"))
            }
            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<HiddenLayer, E> {
                u32::try_from(number).map(HiddenLayer::Inner).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_reads_back_from_text_and_from_toml() {
        for layer in [HiddenLayer::Last, HiddenLayer::Inner(0), HiddenLayer::Inner(12)] {
            assert_eq!(layer.to_string().parse(), Ok(layer));
        }
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Table {
            pairs: Vec<(HiddenLayer, HiddenLayer)>,
        }
        let text = "pairs = [[\"last\", \"last\"], [5, 8]]";
        let table: Table = toml::from_str(text).unwrap();
        assert_eq!(table.pairs[0], (HiddenLayer::Last, HiddenLayer::Last));
        assert_eq!(table.pairs[1], (HiddenLayer::Inner(5), HiddenLayer::Inner(8)));
        assert_eq!(toml::from_str::<Table>(&toml::to_string(&table).unwrap()).unwrap(), table);
        for bad in ["pairs = [[-1, 2]]", "pairs = [[\"first\", 2]]", "pairs = [[1.5, 2]]", "pairs = [[1]]"] {
            assert!(toml::from_str::<Table>(bad).is_err(), "{bad}");
        }
    }
}
