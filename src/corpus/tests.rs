//! Corpora from small trees.
