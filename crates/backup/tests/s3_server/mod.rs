//! A server that speaks S3, for tests: moto's, from PyPI, which `cargo xtask setup` installs. It keeps everything in memory, and
//! ends with the value.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const SERVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools/s3/bin/moto_server");
pub const BUCKET: &str = "backups";
pub const ACCESS_KEY_ID: &str = "gantry";
pub const SECRET_ACCESS_KEY: &str = "not a secret";

pub struct S3Server {
    server: Child,
    pub endpoint: String,
}

impl S3Server {
    /// With one empty bucket, at an address of this machine.
    pub fn start(address: &str) -> Self {
        Self::start_with(Command::new(SERVER), address)
    }

    /// The same in a network namespace.
    pub fn start_in(namespace: &str, address: &str) -> Self {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, SERVER]);
        Self::start_with(command, address)
    }

    fn start_with(mut command: Command, address: &str) -> Self {
        assert!(Path::new(SERVER).is_file(), "`cargo xtask setup` installs the server that speaks S3");
        command.args(["--host", address, "--port", "0"]).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut server = command.spawn().expect("the server starts");
        let mut told = BufReader::new(server.stderr.take().expect("it is piped")).lines();
        let endpoint = told
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| Some(line.split_once("Running on ")?.1.trim().to_owned()))
            .expect("it says where it listens");
        // It stops when nobody reads.
        std::thread::spawn(move || told.for_each(drop));
        let server = Self { server, endpoint };
        server.make_bucket();
        server
    }

    fn make_bucket(&self) {
        let address = self.endpoint.trim_start_matches("http://");
        let mut stream = TcpStream::connect(address).expect("it listens");
        let request = format!(
            "PUT /{BUCKET} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\nAuthorization: \
             AWS4-HMAC-SHA256 Credential={ACCESS_KEY_ID}/20270101/us-east-1/s3/aws4_request\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.server.kill().expect("it is ours");
        self.server.wait().expect("it was killed");
    }
}
