//! Command lines as people type them.

use clap::CommandFactory;
use gantry_types::ByteSize;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

#[test]
fn the_tree_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_and_every_argument_has_a_text() {
    fn missing(command: &clap::Command, path: &str, found: &mut Vec<String>) {
        let path = format!("{path} {}", command.get_name());
        if command.get_about().is_none() {
            found.push(path.clone());
        }
        found.extend(
            command.get_arguments().filter(|a| a.get_help().is_none()).map(|a| format!("{path} {}", a.get_id())),
        );
        command.get_subcommands().for_each(|inner| missing(inner, &path, found));
    }
    let mut found = Vec::new();
    missing(&Cli::command(), "", &mut found);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn what_must_work_as_typed_parses() {
    for line in [
        "gantry host list",
        "gantry repository create local --path /srv/backup --passphrase-file -",
        "gantry repository create vault --bucket backups --prefix lab --endpoint http://10.0.0.9:9000 --access-key-id id \
         --secret-access-key-file key.txt --passphrase-file passphrase.txt",
        "gantry image import tiny ./guest.qcow2",
        "gantry vm create web --image tiny --cpus 1 --memory 256MiB --network default --wait ready",
        "gantry vm list -o json",
        "gantry vm console web",
        "gantry vm migrate web --to host-2",
        "gantry vm migrate web --pool nas",
        "gantry vm migrate web --to host-2 --pool nas",
        "gantry volume migrate web-root --to nas",
        "gantry volume import data ./data.vmdk --pool nas",
        "gantry volume export data ./data.qcow2",
        "gantry vm clone web web-2",
        "gantry get vm web -o yaml",
        "gantry apply -f web.yaml",
        "gantry operation list",
        "gantry event list",
        "gantry lab unplug host-3",
        "gantry vm delete web",
        "gantry lab down",
    ] {
        assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
    }
}

#[test]
fn habits_of_kubectl_and_virsh_parse() {
    for line in [
        "gantry get vms -l app=web,tier!=db -o wide --watch",
        "gantry -o json get img",
        "gantry get op",
        "gantry describe net default",
        "gantry apply -f a.yaml -f b.toml --dry-run",
        "gantry apply -f -",
        "gantry diff -f web.yaml",
        "gantry delete vm a b c",
        "gantry delete -f web.yaml --no-wait",
        "gantry wait vm web --for phase=stopped --timeout 90s",
        "gantry vm create a --disk 1GiB --stopped --label app=web --label tier=db --arch aarch64 --firmware uefi",
        "gantry vm create a --image i --network net,ip=10.0.0.9,mac=52:54:00:00:00:01 --network other --dry-run",
        "gantry vm start a b --wait ready --timeout 90s",
        "gantry vm start a --no-wait",
        "gantry vm stop a b --force --no-wait",
        "gantry vm stop a --grace 5",
        "gantry vm set a --cpus 2 --memory 1GiB --label app- --label x=y",
        "gantry vm set a --cpus 2 --no-wait",
        "gantry vm clone a b --stopped --host host-2 --dry-run",
        "gantry vm clone a b --wait ready --timeout 2m",
        "gantry vm migrate a --post-copy never --max-downtime-ms 50 --bandwidth 100",
        "gantry image import a https://example.com/i.vmdk.xz --sha256 00 --format vmdk --no-wait",
        "gantry network create n --subnet 10.9.0.0/24 --gateway 10.9.0.1 --dns 1.1.1.1 --reserve 10.9.0.2",
        "gantry host cordon host-1",
        "gantry host drain host-1 --no-wait",
        "gantry host undrain host-1",
        "gantry host reboot host-1",
        "gantry host set host-1 --cluster batch --label rack=a --power lab --outlet p1",
        "gantry cluster set main --tolerate-hosts 1 --weight memory=2 --weight cpu-",
        "gantry cluster update main --reboot",
        "gantry policy set balance --mode automatic --cluster main --comfortable 60 --hold-down 600",
        "gantry policy set power --mode automatic --spare 1",
        "gantry policy set schedule mail --vms app=mail --hosts rack=a --from 08:00 --until 12:00 --days mon,tue",
        "gantry policy set schedule mail --days all --max-moves 4",
        "gantry energy report",
        "gantry energy report --by label=app --since 7d",
        "gantry host set host-1 --watts 94,97,101,105,110,116,121,125,129,133,135",
        "gantry policy apply balance web-to-host-2",
        "gantry resource-pool set gold --cpu-shares 400 --cpu-reservation 200 --cpu-limit 600 --memory-limit none",
        "gantry resource-pool show gold",
        "gantry vm set web --resource-pool gold --cpu-shares 200",
        "gantry vm set web --resource-pool none",
        "gantry get policies",
        "gantry vm explain web",
        "gantry host join https://10.0.0.1:7443 gjt1.x --name h --agent-address 10.0.0.2:7444 --state /var/lib/x",
        "gantry host join https://10.0.0.1:7443 --token-file - --name h",
        "gantry operation cancel x",
        "gantry event list --for vm/web --watch",
        "gantry snapshot schedule web --hourly 24 --daily 7 --quiesce",
        "gantry snapshot schedule web --none",
        "gantry pool create nas --type dir --path /srv/nas --host host-1,host-2 --host host-3",
        "gantry vm create web --image tiny --pool nas",
        "gantry volume clone data data-2 --pool nas --size 2GiB --iops 100",
        "gantry token create ci --role viewer --expires 90d",
        "gantry context use main",
        "gantry controller init --data /d --name main --address 10.0.0.1 --address ::1",
        "gantry controller init --data /d --dns-name gantry.example --listen 0.0.0.0:8443",
        "gantry controller run --data /d --listen 0.0.0.0:7443",
        "gantry controller run --data /d",
        "gantry context add other --url https://10.0.0.1:7443 --ca ca.pem --token-file -",
        "gantry context delete other",
        "gantry vm delete a b --force --no-wait",
        "gantry agent run --state /s",
        "gantry lab up --name two --hosts 5 --keep --sample guest.qcow2",
        "gantry lab exec host-1 --name two -- ip -br link",
        "gantry lab status -o json",
        "gantry completion fish",
        "gantry openapi",
        "gantry version --context lab-lab",
    ] {
        assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_the_usage_code() {
    for line in [
        "gantry repository create vault",
        "gantry repository create vault --bucket backups",
        "gantry repository create vault --path /srv/backup --bucket backups --access-key-id id --secret-access-key-file key",
        "gantry repository create vault --path /srv/backup --prefix lab",
        "gantry",
        "gantry get",
        "gantry get pods",
        "gantry get vm -o xml",
        "gantry apply",
        "gantry delete",
        "gantry delete vm",
        "gantry delete vm web -f web.yaml",
        "gantry wait vm web",
        "gantry wait vm web --for ready --timeout soon",
        "gantry vm create Web",
        "gantry vm create web --memory 256XiB",
        "gantry vm create web --network net,ip=300.1.1.1",
        "gantry vm create web --network net,color=red",
        "gantry vm create web --network net,ip=10.0.0.1,ip=10.0.0.2",
        "gantry vm create web --label app",
        "gantry vm create web --stopped --wait ready",
        "gantry vm create web --wait ready --no-wait",
        "gantry vm create web --arch pdp11",
        "gantry vm set web",
        "gantry vm start",
        "gantry vm start web --wait ready --no-wait",
        "gantry vm stop web --grace 9999",
        "gantry vm migrate web --max-downtime-ms 0",
        "gantry vm clone web",
        "gantry vm clone web web-2 --stopped --wait ready",
        "gantry network create n",
        "gantry network create n --subnet 10.9.0.0",
        "gantry token create ci",
        "gantry token create ci --role god",
        "gantry lab up --hosts 0",
        "gantry lab exec host-1 ls",
    ] {
        let error = parse(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

#[test]
fn values_arrive_where_they_belong() {
    let Command::Vm(VmCommand::Create(create)) =
        parse("gantry vm create web --image tiny --memory 1.5GiB --network a,ip=10.0.0.9 --network b").unwrap().command
    else {
        panic!("another command")
    };
    assert_eq!(create.memory, ByteSize::mib(1536));
    assert_eq!(create.networks[0].address, Some("10.0.0.9".parse().unwrap()));
    assert_eq!((create.networks[1].network.as_str(), create.networks[1].address), ("b", None));
    assert_eq!((create.wait, create.follow.no_wait), (WaitFor::Running, false));

    let Command::Vm(VmCommand::Set(set)) = parse("gantry vm set web --label a=1 --label b-").unwrap().command else {
        panic!("another command")
    };
    assert_eq!(set.labels, [("a".to_owned(), Some("1".to_owned())), ("b".to_owned(), None)]);

    let Command::Lab(LabCommand::Exec { command, .. }) = parse("gantry lab exec host-1 -- ls -l -o x").unwrap().command
    else {
        panic!("another command")
    };
    assert_eq!(command, ["ls", "-l", "-o", "x"], "flags after -- are the command's");
}

#[test]
fn durations_have_units() {
    for (text, seconds) in [("90", 90), ("90s", 90), ("5m", 300), ("2h", 7200), ("1d", 86_400)] {
        assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)));
    }
    for bad in ["", "s", "5x", "-1s", "1.5h", "5 m", "99999999999999999999d", "9999999999999d"] {
        assert!(parse_duration(bad).is_err(), "{bad}");
    }
}
