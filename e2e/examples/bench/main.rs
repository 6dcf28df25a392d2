//! Benchmarks, beside a named peer where there is one, in one run on one machine: `cargo xtask bench api|cni|memory|overlay [--output json]`.

mod api;
mod cni;
mod memory;
mod overlay;

use std::process::{Child, ExitCode};

/// A process that ends with this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["api", output @ ..] => api::run(*output == ["json"]),
        ["cni", output @ ..] => cni::run(*output == ["json"]),
        ["memory", output @ ..] => memory::run(*output == ["json"]),
        ["overlay", output @ ..] => overlay::run(*output == ["json"]),
        _ => Err(anyhow::anyhow!("name a benchmark: api, cni, memory or overlay, then table or json")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
