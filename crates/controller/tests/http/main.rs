//! The HTTP front end as users and hosts meet it: over TLS, with tokens and certificates, against a whole controller.

mod consoles;
mod datacenter;
mod hosts;
mod images;
mod objects;
mod requests;
mod tokens;
mod watches;
