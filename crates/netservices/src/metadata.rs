//! What a guest reads about itself over HTTP, in the layouts that images know.
//!
//! ```text
//! NoCloud   GET /meta-data, /user-data, /network-config, /vendor-data
//! EC2       PUT /latest/api/token, then with the token: GET /latest/meta-data/…, /latest/user-data
//! ```
//! The EC2 layout wants a token, as IMDSv2 does: a program in the guest that can be tricked into a GET of any URL can't be
//! tricked into reading it. A request that came through a proxy gets nothing in either layout. cloud-init's NoCloud
//! knows no tokens; who must not read its files is to be kept from 169.254.169.254 by the guest's own firewall.

use std::fmt::Write;
use std::time::Instant;

use hyper::header::{CONTENT_TYPE, HeaderValue, SERVER};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
use ipnet::IpNet;

use crate::table::{GuestMetadata, GuestNic, Port, PortTable};
use crate::tokens::{TTL_RANGE_S, Tokens};

pub const PORT: u16 = 80;
const TOKEN: &str = "x-aws-ec2-metadata-token";
const TOKEN_TTL: &str = "x-aws-ec2-metadata-token-ttl-seconds";
/// Versions of the EC2 layout that cloud-init and its like ask for; all are answered alike.
const VERSIONS: [&str; 6] = ["2009-04-04", "2016-09-02", "2018-09-24", "2020-10-27", "2021-03-23", "latest"];

/// Answers a request of `port`'s guest. Bodies of requests are not read.
pub fn answer(
    request: &Parts,
    port: Option<&Port>,
    table: &PortTable,
    tokens: &mut Tokens,
    now: Instant,
) -> Response<String> {
    let known = port.and_then(|port| Some((port, port.metadata.as_deref()?)));
    let Some((port, guest)) = known else {
        return text(StatusCode::NOT_FOUND, "no VM of this host has this address\n");
    };
    let proxied = ["x-forwarded-for", "forwarded", "via"];
    if proxied.iter().any(|header| request.headers.contains_key(*header)) {
        return text(StatusCode::FORBIDDEN, "metadata is not for requests that come through a proxy\n");
    }
    let path = request.uri.path().trim_start_matches('/');
    if request.method == Method::PUT && path == "latest/api/token" {
        return issue(request, port, tokens, now);
    }
    if request.method != Method::GET && request.method != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET, and PUT of /latest/api/token\n");
    }
    if let Some(found) = no_cloud(path, guest) {
        return found;
    }
    let (version, rest) = path.split_once('/').unwrap_or((path, ""));
    if version.is_empty() {
        return text(StatusCode::OK, &(VERSIONS.join("\n") + "\n"));
    }
    if !VERSIONS.contains(&version) {
        return not_found();
    }
    let token = request.headers.get(TOKEN).and_then(|token| token.to_str().ok());
    if !token.is_some_and(|token| tokens.is_good(port.id, token, now)) {
        let what = "ask for a token by PUT /latest/api/token and send it as X-aws-ec2-metadata-token\n";
        return text(StatusCode::UNAUTHORIZED, what);
    }
    ec2(rest, port, guest, table)
}

fn issue(request: &Parts, port: &Port, tokens: &mut Tokens, now: Instant) -> Response<String> {
    let ttl_s = request.headers.get(TOKEN_TTL).and_then(|ttl| ttl.to_str().ok()?.parse::<u64>().ok());
    let Some(ttl_s) = ttl_s.filter(|ttl| TTL_RANGE_S.contains(ttl)) else {
        let what = "send X-aws-ec2-metadata-token-ttl-seconds with the token's life, 1 to 21600 seconds\n";
        return text(StatusCode::BAD_REQUEST, what);
    };
    let mut response = text(StatusCode::OK, &tokens.issue(port.id, ttl_s, now));
    response.headers_mut().insert(TOKEN_TTL, HeaderValue::from(ttl_s));
    response
}

fn no_cloud(path: &str, guest: &GuestMetadata) -> Option<Response<String>> {
    Some(match path {
        "meta-data" => text(StatusCode::OK, &guest.meta_data),
        // As on a seed disk: cloud-init takes a missing file for a missing seed.
        "user-data" => text(StatusCode::OK, guest.user_data.as_deref().unwrap_or("#cloud-config\n")),
        "network-config" => text(StatusCode::OK, &guest.network_config),
        "vendor-data" => text(StatusCode::OK, ""),
        _ => return None,
    })
}

fn ec2(path: &str, port: &Port, guest: &GuestMetadata, table: &PortTable) -> Response<String> {
    let (kind, rest) = path.split_once('/').unwrap_or((path, ""));
    match (kind, rest) {
        ("", "") => {
            text(StatusCode::OK, if guest.user_data.is_some() { "meta-data\nuser-data\n" } else { "meta-data\n" })
        }
        ("user-data", "") => match &guest.user_data {
            Some(user_data) => text(StatusCode::OK, user_data),
            None => not_found(),
        },
        ("meta-data", path) => match value(path.trim_end_matches('/'), port, guest, table) {
            Some(value) => text(StatusCode::OK, &value),
            None => not_found(),
        },
        _ => not_found(),
    }
}

/// A leaf's value, or a directory's entries, one per line.
fn value(path: &str, port: &Port, guest: &GuestMetadata, table: &PortTable) -> Option<String> {
    let first = guest.nics.first();
    let own = guest.nics.iter().find(|nic| nic.mac == port.mac).or(first);
    let hostname = || format!("{}.{}", port.hostname, table.network.domain);
    Some(match path.split('/').collect::<Vec<_>>().as_slice() {
        [""] => list(&["hostname", "instance-id", "local-hostname", "local-ipv4", "mac", "network/"]),
        ["instance-id"] => guest.instance_id.clone(),
        ["hostname" | "local-hostname"] => hostname(),
        ["local-ipv4"] => own?.addresses.iter().find(|a| matches!(a, IpNet::V4(_)))?.addr().to_string(),
        ["ipv6"] => own?.addresses.iter().find(|a| matches!(a, IpNet::V6(_)))?.addr().to_string(),
        ["mac"] => own?.mac.to_string(),
        ["network"] => list(&["interfaces/"]),
        ["network", "interfaces"] => list(&["macs/"]),
        ["network", "interfaces", "macs"] => guest.nics.iter().fold(String::new(), |mut all, nic| {
            // Writing to a string can't fail.
            let _ = writeln!(all, "{}/", nic.mac);
            all
        }),
        ["network", "interfaces", "macs", mac, rest @ ..] => {
            let at = guest.nics.iter().position(|nic| nic.mac.to_string() == mac.to_ascii_lowercase())?;
            interface(at, &guest.nics[at], rest)?
        }
        _ => return None,
    })
}

fn interface(device: usize, nic: &GuestNic, path: &[&str]) -> Option<String> {
    let of = |is_v4: bool| nic.addresses.iter().filter(move |a| a.addr().is_ipv4() == is_v4);
    let addresses = |is_v4| of(is_v4).map(|a| a.addr().to_string()).collect::<Vec<_>>().join("\n");
    let blocks = |is_v4| of(is_v4).map(|a| a.trunc().to_string()).collect::<Vec<_>>().join("\n");
    let value = match path {
        [] => {
            let mut entries = vec!["device-number", "mac"];
            if of(true).next().is_some() {
                entries.extend(["local-ipv4s", "subnet-ipv4-cidr-block"]);
            }
            if of(false).next().is_some() {
                entries.extend(["ipv6s", "subnet-ipv6-cidr-blocks"]);
            }
            list(&entries)
        }
        ["device-number"] => device.to_string(),
        ["mac"] => nic.mac.to_string(),
        ["local-ipv4s"] => addresses(true),
        ["subnet-ipv4-cidr-block"] => blocks(true),
        ["ipv6s"] => addresses(false),
        ["subnet-ipv6-cidr-blocks"] => blocks(false),
        _ => return None,
    };
    (!value.is_empty()).then_some(value)
}

fn list(entries: &[&str]) -> String {
    entries.join("\n") + "\n"
}

fn not_found() -> Response<String> {
    text(StatusCode::NOT_FOUND, "there is nothing of this name\n")
}

fn text(status: StatusCode, body: &str) -> Response<String> {
    let mut response = Response::new(body.to_owned());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(SERVER, HeaderValue::from_static("gantry"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::fixture::{addresses, table};
    use hyper::Request;
    use proptest::prelude::*;

    struct Client {
        table: PortTable,
        tokens: Tokens,
    }

    impl Client {
        fn new() -> Self {
            Self { table: table(), tokens: Tokens::default() }
        }

        fn ask(&mut self, last: u8, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
            let mut request = Request::builder().method(method).uri(path);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            let port = self.table.by_address(addresses(last)[0]);
            let response = answer(&parts, port, &self.table, &mut self.tokens, Instant::now());
            (response.status().as_u16(), response.into_body())
        }

        fn token(&mut self, last: u8) -> String {
            let (status, token) = self.ask(last, "PUT", "/latest/api/token", &[(TOKEN_TTL, "60")]);
            assert_eq!(status, 200);
            token
        }

        fn read(&mut self, last: u8, path: &str) -> (u16, String) {
            let token = self.token(last);
            self.ask(last, "GET", path, &[(TOKEN, &token)])
        }
    }

    #[test]
    fn nocloud_files_are_the_callers_own() {
        let mut client = Client::new();
        for (last, path, body) in [
            (10, "/meta-data", "instance-id: i-10\nlocal-hostname: web-10\n"),
            (11, "/meta-data", "instance-id: i-11\nlocal-hostname: web-11\n"),
            (10, "//user-data", "#cloud-config\n"),
            (10, "/network-config", "version: 2\n"),
            (10, "/vendor-data", ""),
        ] {
            assert_eq!(client.ask(last, "GET", path, &[]), (200, body.to_owned()), "{last} {path}");
        }
        assert_eq!(client.ask(20, "GET", "/meta-data", &[]).0, 404, "a port of another host");
        let proxied = [("X-Forwarded-For", "10.9.0.10")];
        assert_eq!(client.ask(10, "GET", "/user-data", &proxied).0, 403);
        assert_eq!(client.ask(10, "PUT", "/latest/api/token", &[proxied[0], (TOKEN_TTL, "60")]).0, 403);
    }

    #[test]
    fn the_ec2_layout_wants_the_ports_own_token() {
        let mut client = Client::new();
        assert_eq!(client.ask(10, "GET", "/latest/meta-data/instance-id", &[]).0, 401);
        for bad in [&[][..], &[(TOKEN_TTL, "0")], &[(TOKEN_TTL, "21601")], &[(TOKEN_TTL, "x")]] {
            assert_eq!(client.ask(10, "PUT", "/latest/api/token", bad).0, 400, "{bad:?}");
        }
        let others = client.token(11);
        assert_eq!(client.ask(10, "GET", "/latest/meta-data/mac", &[(TOKEN, &others)]).0, 401);
        assert_eq!(client.ask(10, "POST", "/latest/meta-data/mac", &[]).0, 405);
        for (path, body) in [
            ("/latest/meta-data/instance-id", "i-10"),
            ("/2021-03-23/meta-data/hostname", "web-10.lan.internal"),
            ("/latest/meta-data/local-ipv4", "10.9.0.10"),
            ("/latest/meta-data/network/interfaces/macs/", "52:54:00:00:00:0a/\n"),
            ("/latest/meta-data/network/interfaces/macs/52:54:00:00:00:0a/subnet-ipv4-cidr-block", "10.9.0.0/24"),
            ("/latest/meta-data/network/interfaces/macs/52:54:00:00:00:0A/device-number", "0"),
            ("/latest/user-data", "#cloud-config\n"),
        ] {
            assert_eq!(client.read(10, path), (200, body.to_owned()), "{path}");
        }
        for path in ["/latest/user-data", "/latest/meta-data/ami-id", "/1999-01-01/meta-data/", "/latest/x"] {
            assert_eq!(client.read(11, path).0, 404, "{path}");
        }
    }

    #[test]
    fn every_directory_lists_what_is_there() {
        let mut client = Client::new();
        let mut open = vec!["/latest/meta-data/".to_owned()];
        let mut leaves = 0;
        while let Some(directory) = open.pop() {
            let (status, entries) = client.read(10, &directory);
            assert_eq!(status, 200, "{directory}");
            for entry in entries.lines() {
                let path = format!("{directory}{entry}");
                if entry.ends_with('/') {
                    open.push(path);
                } else {
                    assert_eq!(client.read(10, &path).0, 200, "{path}");
                    leaves += 1;
                }
            }
        }
        assert!(leaves > 6);
    }

    proptest! {
        #[test]
        fn any_path_is_survived(path in "/[a-z0-9:/.%-]{0,60}") {
            let mut client = Client::new();
            let (status, _) = client.ask(10, "GET", &path, &[]);
            prop_assert!([200, 401, 404].contains(&status));
        }
    }
}
