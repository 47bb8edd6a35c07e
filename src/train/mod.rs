//! Stage two: trains a student from corpora and teachers' caches, without a teacher.
//!
//! [`pipeline`] is what the user wrote, [`parse`] reads it and refuses what
//! cannot work. [`prepare`] opens corpora and caches and refuses what does not fit before any
//! work. [`batches`] plans an epoch, [`stream`] assembles its batches on other threads, [`run`] is the loop over its updates, [`checkpoint`] what it leaves behind.

pub mod batches;
mod check;
pub mod checkpoint;
pub mod copies;
pub mod directory;
mod epoch;
pub mod inputs;
mod keep;
pub mod metrics;
pub mod objective;
pub mod optimizer;
pub mod parse;
pub mod pipeline;
pub mod prepare;
pub mod profile;
pub mod recipe;
pub mod run;
pub mod step;
pub mod stream;
pub mod student;
pub mod targets;
pub mod times;
mod update;
