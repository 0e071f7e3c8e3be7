//! What a network answers its guests with, asked by a real guest; what it lets no guest do; and that downloads go on while
//! their server moves, although everything that let them through stays behind.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use gantry_e2e::lab::{BOOT_LIMIT, address, host_of};
use gantry_e2e::spoofing::{self, Sender, Sniffer};
use gantry_e2e::{Lab, eventually, http_get};
use gantry_types::{FloatingIp, MigrationPolicy, OperationPhase, Vm};

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

async fn create(lab: &Lab, name: &str, network: &str, script: &str) -> Result<()> {
    let path = std::env::temp_dir().join(format!("{}-{name}.sh", lab.name()));
    fs::write(&path, script)?;
    let shown = path.to_str().context("the temporary directory's path is not UTF-8")?;
    let label = format!("tier={name}");
    let line = ["vm", "create", name, "--image", "guest", "--memory", "128MiB", "--label", &label];
    let created = lab.gantry(&[&line[..], &["--network", network, "--user-data", shown]].concat()).await?;
    fs::remove_file(path)?;
    created.ok().map(drop)
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
    let orders = TcpListener::bind(SocketAddr::new(lab.outside(), 0))?;
    let liar = format!(
        "while :; do nc {} {} < /dev/null | wl frames eth0; usleep 100000; done > /dev/null 2>&1 &\n",
        lab.outside(),
        orders.local_addr()?.port()
    );
    create(&lab, "asker", "default,dhcp", &format!("{SCRIPT}{liar}")).await?;
    create(&lab, "bystander", "default", SCRIPT).await?;
    lab.serving("bystander").await?;
    // Reached at all, it has asked and was answered: nothing else tells it its address.
    let vm = lab.serving("asker").await?;
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

    no_lie_gets_out(&lab, &vm, orders).await?;

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

/// The guest sends what it is told to, again and again; only what is true arrives: at a VM on its host, which is captured,
/// and outside, where everything is heard.
async fn no_lie_gets_out(lab: &Lab, liar: &Vm, orders: TcpListener) -> Result<()> {
    let IpAddr::V4(own) = address(liar)? else { bail!("the liar has no IPv4 address") };
    let IpAddr::V4(foreign) = lab.outside() else { bail!("outside there is no IPv4 address") };
    let sender = Sender { mac: liar.status.nics[0].mac, address: own, foreign };
    let text = |what: usize| format!("{}-frame-{what:02}.", lab.name());
    let (lies, truth) = (sender.lies(text), text(99));
    let all = lies.iter().map(|(_, lie)| spoofing::line(lie)).chain([spoofing::line(&sender.truth(&truth))]);
    let lines: String = all.collect();
    let sniffer = Sniffer::listen(lab.name())?;
    let ended = AtomicBool::new(false);
    let told = || -> Result<()> {
        while !ended.load(Ordering::Relaxed) {
            orders.accept()?.0.write_all(lines.as_bytes())?;
        }
        Ok(())
    };
    let file = std::env::temp_dir().join(format!("{}.pcap", lab.name()));
    let path = file.to_str().context("the temporary directory's path is not UTF-8")?;
    let captured = std::thread::scope(|scope| {
        let telling = scope.spawn(told);
        let line = ["port", "capture", "bystander", "-w", path, "--time", "5s"];
        let ran = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(lab.gantry(&line)));
        ended.store(true, Ordering::Relaxed);
        telling.join().ok().context("the teller panicked")??;
        ran?.ok()
    });
    captured?;
    let captured = fs::read(&file)?;
    fs::remove_file(&file)?;
    ensure!(spoofing::holds(&captured, truth.as_bytes()), "the bystander got nothing, not even the truth");
    ensure!(sniffer.heard(&truth) > 0, "nothing was heard outside, not even the truth");
    for (number, (what, _)) in lies.iter().enumerate() {
        let text = text(number);
        ensure!(!spoofing::holds(&captured, text.as_bytes()), "{what}: it reached the VM beside");
        ensure!(sniffer.heard(&text) == 0, "{what}: it got out");
    }
    Ok(())
}

/// A network of its own, and a load balancer whose member is the VM in it.
const BEHIND_A_ROUTER: &str = "
kind: network
metadata: {name: inside}
spec: {subnet: {cidr: 10.67.0.0/24, gateway: 10.67.0.1}}
---
kind: router
metadata: {name: inside}
spec: {networks: [inside], external: default}
---
kind: load-balancer
metadata: {name: front}
spec: {network: inside, listeners: [{port: 9}, {port: 80}], members: tier=inner, health: {port: 80, http_path: /}}
";

/// A connection on which only the guest speaks.
struct Download(TcpStream);

impl Download {
    fn start(address: IpAddr) -> Result<Self> {
        Self::of(TcpStream::connect_timeout(&SocketAddr::new(address, DOWNLOAD_PORT), HTTP_LIMIT)?)
    }

    fn of(stream: TcpStream) -> Result<Self> {
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
async fn downloads_go_on_while_their_servers_move_and_everything_comes_back_with_a_host_that_was_off() -> Result<()> {
    let lab = Lab::up(2).await?;
    lab.import_guest().await?;
    let outside = TcpListener::bind(SocketAddr::new(lab.outside(), 0))?;
    let (to, port) = (lab.outside(), outside.local_addr()?.port());
    // In from clients, nothing out but answers: without its entry a download that only sends would never be heard again.
    for line in [
        "create server",
        "allow server --tcp 9 --from 0.0.0.0/0",
        "allow server --tcp 80 --from 0.0.0.0/0",
        "allow server --udp 9 --to 192.0.2.1/32",
        "create sender",
        &format!("allow sender --tcp {port} --to {to}/32"),
    ] {
        lab.gantry(&["security-group"].into_iter().chain(line.split(' ')).collect::<Vec<_>>()).await?.ok()?;
    }
    // And one behind a router: it is reached by a floating address and by a load balancer, and itself sends to the outside,
    // under the address of its host.
    lab.cli().run_with_input(&["apply", "-f", "-"], BEHIND_A_ROUTER).await?.ok()?;
    let upload = format!("yes | nc {to} {port} > /dev/null 2>&1 &\n");
    create(&lab, "inner", "inside,group=server,group=sender", &format!("{SCRIPT}{upload}")).await?;
    create(&lab, "guarded", "default,group=server", SCRIPT).await?;
    create(&lab, "open", "default", SCRIPT).await?;
    let mut downloads = Vec::new();
    for attach in [&["inner"][..], &["--load-balancer", "front"]] {
        lab.gantry(&[&["floating-ip", "attach"][..], attach].concat()).await?.ok()?;
    }
    let mut floating = Vec::new();
    for name in ["inner", "front"] {
        let found: FloatingIp = lab.client().get(name).await?;
        floating.push(found.status.address.context("it has no address")?);
    }
    for address in &floating {
        // A load balancer takes its member in once the guest serves.
        let mut download = eventually("a download begins", BOOT_LIMIT, async || Download::start(*address)).await?;
        download.read(1 << 16)?;
        downloads.push(download);
    }
    let (accepted, _) = tokio::task::spawn_blocking(move || outside.accept()).await??;
    let mut upload = Download::of(accepted)?;
    upload.read(1 << 16)?;
    downloads.push(upload);
    let (guarded, open) = (lab.serving("guarded").await?, lab.serving("open").await?);
    for vm in [&guarded, &open] {
        let mut download = Download::start(address(vm)?)?;
        download.read(1 << 16)?;
        downloads.push(download);
    }
    let inner: Vm = lab.client().get("inner").await?;
    for vm in [&guarded, &open, &inner] {
        let moving = lab.migrate(vm.metadata.name.as_str(), 3 - host_of(vm)?, MigrationPolicy::default()).await?;
        let operation = lab.finished(&moving).await?;
        ensure!(operation.status.phase == OperationPhase::Succeeded, "{:?}", operation.status);
    }
    for mut download in downloads {
        // More than was under way.
        tokio::task::spawn_blocking(move || download.read(16 << 20)).await??;
    }
    group_holds(address(&guarded)?)?;

    // Everything a host does for its networks it does again by itself.
    let host = host_of(&lab.client().get::<Vm>("inner").await?)?;
    lab.cable("unplug", host).await?;
    lab.cable("plug", host).await?;
    lab.all_hosts_ready().await?;
    for address in &floating {
        eventually(&format!("{address} answers again"), BOOT_LIMIT, async || {
            let who = http_get(*address, "/cgi-bin/who", HTTP_LIMIT)?;
            ensure!(who.contains("inner"), "it is '{who}'");
            Ok(())
        })
        .await?;
    }
    group_holds(floating[0])?;
    lab.passed();
    Ok(())
}

/// Whoever is asked at a port that its group does not allow is silent.
fn group_holds(address: IpAddr) -> Result<()> {
    let refused = TcpStream::connect_timeout(&SocketAddr::new(address, 7), Duration::from_secs(3));
    ensure!(refused.is_err_and(|error| error.kind() == std::io::ErrorKind::TimedOut), "the group does not hold");
    Ok(())
}
