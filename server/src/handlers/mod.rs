//! What the broker does for each request, one file for a family of APIs.
//!
//! A handler decodes its request, asks the shards or the controller, and answers. It decides what a client may
//! ask and what it is told; it knows neither sockets nor files.

pub mod api_versions;
pub mod configs;
pub mod consumer_groups;
pub mod coordinators;
pub mod fetch;
pub mod group_offsets;
pub mod groups;
pub mod metadata;
pub mod offsets;
pub mod produce;
pub mod producer_ids;
pub mod route;
pub mod topics;
pub mod transactions;
pub mod verification;
