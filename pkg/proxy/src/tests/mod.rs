//! Tests of the engine against independent readings.

mod interpreter;
mod model;
mod naive;
mod world;
