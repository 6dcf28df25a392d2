//! Services, as clients meet them. Each scenario has a namespace of its own in one lab with a fleet.

mod fleet;

pub use fleet::fleet_answers;
