//! What a network answers its guests with, asked by a real guest; and that a download goes on while its server moves,
//! although everything that let it through stays behind.

use std::fs;
use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gantry_e2e::lab::{BOOT_LIMIT, address};
use gantry_e2e::{Lab, eventually, http_get};
use gantry_types::{MigrationPolicy, OperationPhase, Vm};

/// A port on which the guest sends for ever.
const DOWNLOAD_PORT: u16 = 9;
const HTTP_LIMIT: Duration = Duration::from_secs(5);
/// The longest that TCP may be silent before it is lost; a move's blackout is shorter.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);

/// What the guest does at its first boot; its web server shows what it found.
const SCRIPT: &str = r#"#!/bin/sh
nc -ll -p 9 -e yes > /dev/null 2>&1 &
TRIES=0
while [ ! -s /run/dhcp ] && [ $TRIES -lt 200 ]; do usleep 100000; TRIES=$((TRIES + 1)); done
mkdir -p /tmp/found
cp /run/dhcp /etc/resolv.conf /tmp/found/
ip route > /tmp/found/routes
wget -q -O /tmp/found/meta-data http://169.254.169.254/meta-data
printf 'PUT /latest/api/token HTTP/1.0\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n' |
  nc -w 5 169.254.169.254 80 | tail -n 1 > /tmp/token
wget -q -O /tmp/found/hostname --header "X-aws-ec2-metadata-token: $(cat /tmp/token)" \
  http://169.254.169.254/latest/meta-data/hostname
touch /tmp/found/denied
wget -q -O /tmp/found/denied http://169.254.169.254/latest/meta-data/hostname 2> /dev/null
nslookup asker.default.internal 169.254.169.254 > /tmp/found/name 2>&1
nslookup nobody.default.internal 169.254.169.254 > /tmp/found/nobody 2>&1
ln -s /tmp/found /www/found
"#;

async fn create(lab: &Lab, name: &str, network: &str) -> Result<Vm> {
    let script = std::env::temp_dir().join(format!("{}-{name}.sh", lab.name()));
    fs::write(&script, SCRIPT)?;
    let script_path = script.to_str().context("the temporary directory's path is not UTF-8")?.to_owned();
    let created = lab
        .gantry(&[
            "vm",
            "create",
            name,
            "--image",
            "guest",
            "--memory",
            "128MiB",
            "--network",
            network,
            "--user-data",
            &script_path,
        ])
        .await?;
    fs::remove_file(script)?;
    created.ok()?;
    lab.serving(name).await
}

async fn found(address: IpAddr, what: &str) -> Result<String> {
    eventually(&format!("the guest shows {what}"), BOOT_LIMIT, async || {
        Ok(http_get(address, &format!("/found/{what}"), HTTP_LIMIT)?)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_gets_its_address_its_metadata_and_names_from_its_own_host() -> Result<()> {
    let lab = Lab::up(1).await?;
    lab.import_guest().await?;
    // Reached at all, it has asked and was answered: nothing else tells it its address.
    let vm = create(&lab, "asker", "default,dhcp").await?;
    let own = address(&vm)?;
    let lease = found(own, "dhcp").await?;
    ensure!(lease.contains(&format!("{own}/")) && lease.contains("from 169.254.169.254"), "{lease}");
    let routes = found(own, "routes").await?;
    ensure!(routes.contains("169.254.169.254 dev eth0"), "{routes}");
    let resolvers = found(own, "resolv.conf").await?;
    ensure!(resolvers.contains("search default.internal"), "{resolvers}");
    let metadata = found(own, "meta-data").await?;
    ensure!(metadata.contains(&vm.metadata.uuid.to_string()) && metadata.contains("asker"), "{metadata}");
    let hostname = found(own, "hostname").await?;
    ensure!(hostname == "asker.default.internal", "{hostname}");
    ensure!(found(own, "denied").await?.is_empty(), "the EC2 layout was read without a token");
    let name = found(own, "name").await?;
    ensure!(name.contains(&own.to_string()), "{name}");
    let nobody = found(own, "nobody").await?;
    ensure!(nobody.contains("NXDOMAIN"), "{nobody}");

    // The agent's end takes the services along; the next one brings them back.
    lab.crash_agent(1)?;
    lab.resume().await?;
    eventually("the services are back", BOOT_LIMIT, async || {
        let asked =
            lab.gantry(&["lab", "exec", "host-1", "--name", lab.name(), "--", "ip", "-br", "link"]).await?.ok()?;
        ensure!(asked.contains("gs"), "{asked}");
        Ok(())
    })
    .await?;
    lab.passed();
    Ok(())
}

/// A connection on which only the guest speaks.
struct Download(TcpStream);

impl Download {
    fn start(address: IpAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&SocketAddr::new(address, DOWNLOAD_PORT), HTTP_LIMIT)?;
        stream.set_read_timeout(Some(SILENCE_LIMIT))?;
        Ok(Self(stream))
    }

    /// Reads so many bytes, all of which must be what the guest sends.
    fn read(&mut self, bytes: usize) -> Result<()> {
        let mut buffer = [0; 1 << 16];
        let mut read = 0;
        while read < bytes {
            let length = self.0.read(&mut buffer).context("the download broke")?;
            ensure!(length > 0, "the download ended");
            ensure!(buffer[..length].iter().all(|byte| b"y\n".contains(byte)), "the download brought something else");
            read += length;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_goes_on_while_its_server_moves_with_and_without_groups() -> Result<()> {
    let lab = Lab::up(2).await?;
    lab.import_guest().await?;
    // In from clients, nothing out but answers: without its entry a download that only sends would never be heard again.
    for line in [
        "security-group create server",
        "security-group allow server --tcp 9 --from 0.0.0.0/0",
        "security-group allow server --tcp 80 --from 0.0.0.0/0",
        "security-group allow server --udp 9 --to 192.0.2.1/32",
    ] {
        lab.gantry(&line.split(' ').collect::<Vec<_>>()).await?.ok()?;
    }
    let guarded = create(&lab, "guarded", "default,group=server").await?;
    let open = create(&lab, "open", "default").await?;
    let mut downloads = Vec::new();
    for vm in [&guarded, &open] {
        let mut download = Download::start(address(vm)?)?;
        download.read(1 << 16)?;
        downloads.push(download);
    }
    for vm in [&guarded, &open] {
        let to = if gantry_e2e::lab::host_of(vm)? == 1 { 2 } else { 1 };
        let moving = lab.migrate(vm.metadata.name.as_str(), to, MigrationPolicy::default()).await?;
        let operation = lab.finished(&moving).await?;
        ensure!(operation.status.phase == OperationPhase::Succeeded, "{:?}", operation.status);
    }
    for mut download in downloads {
        // More than was under way.
        tokio::task::spawn_blocking(move || download.read(16 << 20)).await??;
    }
    // The group is in force where the guest is now.
    let refused = TcpStream::connect_timeout(&SocketAddr::new(address(&guarded)?, 7), Duration::from_secs(3));
    ensure!(refused.is_err_and(|error| error.kind() == std::io::ErrorKind::TimedOut), "the group does not hold");
    lab.passed();
    Ok(())
}
