//! Every option of `service create`: what a look from inside the container shows of it, and each
//! bad value's refusal. One node for all rows of a table.

#[path = "options/behaviour.rs"]
mod behaviour;
#[path = "options/refusals.rs"]
mod refusals;
#[path = "options/rows.rs"]
mod rows;
#[path = "options/table.rs"]
mod table;
#[path = "options/volumes.rs"]
mod volumes;
