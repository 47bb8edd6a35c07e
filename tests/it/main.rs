//! Everything through the binary: one test program, one file per part.

mod corpus;
mod harness;
mod import;
mod nemo;
mod parity;
mod score;
