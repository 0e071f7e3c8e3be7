//! The sample of `lab up --sample`: the image `guest` and the VM `hello`, made unless they are there.

use std::{path::Path, time::Duration};

use gantry_api::rest::{Changed, WriteQuery};
use gantry_types::{ByteSize, ErrorClass, Image, ImagePhase, ImageSpec, Name, NicSpec, Problem, Resource, Vm, VmSpec};

use crate::{
    client::Client,
    commands::upload,
    exit::Failure,
    follow::follow,
    output::print,
    wait::{Condition, wait_for},
};

const IMAGE: &str = "guest";
const VM: &str = "hello";
/// Under emulation on a busy machine a guest takes its time.
const READY_LIMIT: Duration = Duration::from_secs(240);

pub fn check_file(file: &Path) -> Result<(), Problem> {
    if file.is_file() {
        return Ok(());
    }
    Err(Problem::invalid("unreadable-file", format!("the sample '{}' is not a file", file.display()))
        .remedy("name a disk image"))
}

/// Brings the sample up on a lab of `hosts` hosts and says what to do with it.
pub async fn run(client: &Client, file: &Path, hosts: u8) -> Result<(), Failure> {
    import(client, file).await?;
    if find::<Vm>(client, VM).await?.is_none() {
        create(client, hosts).await?;
    }
    wait_for::<Vm>(client, VM, &Condition::Ready, READY_LIMIT).await?;
    let vm = client.get::<Vm>(VM).await?;
    Ok(print(&what_to_try(&vm, hosts))?)
}

/// Not on the first host: the next VM is placed there, and can be moved to the second.
async fn create(client: &Client, hosts: u8) -> Result<(), Failure> {
    let mut vm = sample_vm()?;
    if hosts > 1 {
        vm.spec.host = Some(name("host-2")?);
    }
    let changed = client.create(&vm, &WriteQuery::default()).await?;
    finish(client, changed).await?;
    // From here on it may go anywhere.
    let mut placed = client.get::<Vm>(VM).await?;
    placed.spec.host = None;
    placed.metadata.revision = 0;
    client.update(&placed, &WriteQuery::default()).await?;
    Ok(())
}

async fn import(client: &Client, file: &Path) -> Result<(), Failure> {
    match find::<Image>(client, IMAGE).await? {
        Some(image) if image.status.phase == ImagePhase::Ready => return Ok(()),
        // Left by an attempt that was interrupted.
        Some(_) => {
            let changed = client.delete::<Image>(IMAGE, &WriteQuery::default()).await?;
            finish(client, changed).await?;
        }
        None => {}
    }
    client.create(&Image::new(name(IMAGE)?, ImageSpec::default()), &WriteQuery::default()).await?;
    let changed = upload(client, IMAGE, file).await?;
    finish(client, changed).await
}

async fn finish<T>(client: &Client, changed: Changed<T>) -> Result<(), Failure> {
    match changed.operation {
        Some(operation) => follow(client, &operation).await.map(drop),
        None => Ok(()),
    }
}

async fn find<T: Resource>(client: &Client, name: &str) -> Result<Option<T>, Problem> {
    match client.get::<T>(name).await {
        Ok(object) => Ok(Some(object)),
        Err(problem) if problem.class == ErrorClass::NotFound => Ok(None),
        Err(problem) => Err(problem),
    }
}

fn name(text: &str) -> Result<Name, Failure> {
    Ok(text.parse::<Name>().map_err(anyhow::Error::new)?)
}

fn sample_vm() -> Result<Vm, Failure> {
    let spec = VmSpec {
        image: Some(name(IMAGE)?),
        nics: vec![NicSpec::new(name("default")?)],
        ..VmSpec::new(1, ByteSize::mib(256))
    };
    Ok(Vm::new(name(VM)?, spec))
}

fn what_to_try(vm: &Vm, hosts: u8) -> String {
    let host = vm.status.host.as_ref().map_or("-", Name::as_str);
    let address = vm.status.nics.first().map_or_else(|| "-".to_owned(), |nic| nic.address.to_string());
    let mut lines = vec![
        format!("curl http://{address}/"),
        "gantry vm list".to_owned(),
        format!("gantry vm console {VM}        # Ctrl-] ends it"),
    ];
    if hosts > 1 {
        let other = if host == "host-2" { "host-1" } else { "host-2" };
        lines.push(format!("gantry vm migrate {VM} --to {other}"));
    }
    lines.push(format!("gantry lab unplug host-{hosts} && gantry host list"));
    lines.push("gantry lab down".to_owned());
    format!("VM '{VM}' runs on {host} and answers at {address}\ntry:  {}\n", lines.join("\n      "))
}
