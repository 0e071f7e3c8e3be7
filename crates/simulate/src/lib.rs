//! The engine over traces and over captured snapshots: what a policy would have done, and what a change would do.
//!
//! It decides nothing itself: placement, power and drain are those of [`gantry_placement`], the code that the controller
//! runs. It does no I/O and reads no clock; a day of traces always gives the same figures.

pub mod live;
pub mod planetlab;
pub mod plot;
