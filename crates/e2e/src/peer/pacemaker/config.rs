//! What the nodes are told: corosync's configuration and Pacemaker's cluster information base.

use std::fmt::Write as _;
use std::path::Path;

use super::{NODES, Tuning, address, power_file};

/// Corosync's own figures, or those of who wants it quick: a token of one second, however many nodes there are, is the least
/// that is commonly advised.
pub fn corosync(tuning: Tuning) -> String {
    let pace = match tuning {
        Tuning::Defaults => "",
        Tuning::Quick => "  token: 1000\n  token_coefficient: 0\n  consensus: 1200\n",
    };
    // Real time is for daemons with a machine to themselves.
    let mut text = format!(
        "totem {{\n  version: 2\n  cluster_name: peer\n  transport: knet\n  crypto_cipher: none\n  crypto_hash: none\n{pace}}}\n\
         system {{\n  sched_rr: no\n}}\n\
         logging {{\n  to_logfile: yes\n  logfile: /var/log/corosync/corosync.log\n  to_syslog: no\n  to_stderr: no\n}}\n\
         quorum {{\n  provider: corosync_votequorum\n}}\nnodelist {{\n"
    );
    for number in NODES {
        let address = address(number);
        _ = write!(text, "  node {{\n    name: n{number}\n    nodeid: {number}\n    ring0_addr: {address}\n  }}\n");
    }
    text + "}\n"
}

/// One guest that may run on each node, and a switch for the power of each: Debian's `fence_dummy`, which is at once done. So
/// the peer waits for no real outlet.
pub fn cib(directory: &Path, guest: &Path, tuning: Tuning) -> String {
    let mut properties = vec![("stonith-enabled", "true"), ("no-quorum-policy", "stop")];
    if tuning == Tuning::Quick {
        // A node that was shut out is not started again first.
        properties.push(("stonith-action", "off"));
    }
    let properties: String =
        properties.iter().map(|(name, value)| nvpair(&format!("cluster-{name}"), name, value)).collect();
    let mut resources = String::new();
    for number in NODES {
        let id = format!("power-{number}");
        let file = power_file(directory, number).display().to_string();
        let settings = [
            ("pcmk_host_list", format!("n{number}")),
            ("pcmk_host_check", "static-list".to_owned()),
            ("type", "file".to_owned()),
            ("status_file", file),
        ];
        let settings: String =
            settings.iter().map(|(name, value)| nvpair(&format!("{id}-{name}"), name, value)).collect();
        _ = write!(
            resources,
            "<primitive id=\"{id}\" class=\"stonith\" type=\"fence_dummy\">\
             <instance_attributes id=\"{id}-set\">{settings}</instance_attributes></primitive>"
        );
    }
    let program = nvpair("guest-binfile", "binfile", &guest.display().to_string());
    _ = write!(
        resources,
        "<primitive id=\"guest\" class=\"ocf\" provider=\"heartbeat\" type=\"anything\">\
         <instance_attributes id=\"guest-set\">{program}</instance_attributes><operations>\
         <op id=\"guest-monitor\" name=\"monitor\" interval=\"10s\" timeout=\"20s\"/>\
         <op id=\"guest-start\" name=\"start\" interval=\"0\" timeout=\"60s\"/></operations></primitive>"
    );
    format!(
        "<cib crm_feature_set=\"3.16.1\" validate-with=\"pacemaker-3.9\" admin_epoch=\"0\" epoch=\"1\" num_updates=\"0\">\
         <configuration><crm_config><cluster_property_set id=\"cluster\">{properties}</cluster_property_set></crm_config>\
         <nodes/><resources>{resources}</resources><constraints/></configuration><status/></cib>\n"
    )
}

fn nvpair(id: &str, name: &str, value: &str) -> String {
    format!("<nvpair id=\"{id}\" name=\"{name}\" value=\"{value}\"/>")
}
