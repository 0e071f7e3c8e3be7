//! The HTTP front end as users and hosts meet it: over TLS, with tokens and certificates, against a whole controller.

mod assets;
mod audit;
mod browser;
mod consoles;
mod datacenter;
mod hosts;
mod images;
mod objects;
mod overview;
mod requests;
mod sessions;
mod tokens;
mod users;
mod watches;
