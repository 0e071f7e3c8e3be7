//! What ports and rules have counted, in Prometheus' text format (version 0.0.4).

use std::fmt::Write;

use gantry_types::{Port, Problem, Resource, SecurityGroup};

use super::{App, Caller};

/// One line for each counter.
///
/// # Errors
/// The caller may not read everything.
pub fn exposition(app: &App, caller: &Caller) -> Result<String, Problem> {
    caller.may_read()?;
    let mut text = String::new();
    let (ports, groups) = (app.model.list::<Port>(), app.model.list::<SecurityGroup>());
    type Read = fn(&gantry_types::PortTraffic) -> u64;
    let of_ports: [(&str, &str, Read); 5] = [
        ("gantry_port_received_bytes_total", "Bytes that a port's guest has received.", |t| t.received_bytes),
        ("gantry_port_received_packets_total", "Packets that a port's guest has received.", |t| t.received_packets),
        ("gantry_port_sent_bytes_total", "Bytes that a port's guest has sent.", |t| t.sent_bytes),
        ("gantry_port_sent_packets_total", "Packets that a port's guest has sent.", |t| t.sent_packets),
        (
            "gantry_port_spoofed_packets_total",
            "Packets of a port's guest that were dropped because they were not in its own name.",
            |t| t.spoofed_packets,
        ),
    ];
    app.model.overlay(|overlay| {
        for (name, help, read) in of_ports {
            heading(&mut text, name, help);
            for port in &ports {
                let Some(traffic) = overlay.counters.of_port(port.metadata.uuid) else { continue };
                let vm = port.status.vm.as_ref().map(ToString::to_string).unwrap_or_default();
                let labels = [("port", port.name()), ("network", port.spec.network.as_str()), ("vm", vm.as_str())];
                line(&mut text, name, &labels, read(&traffic));
            }
        }
        for (name, help, is_packets) in [
            ("gantry_rule_packets_total", "Packets that a security group's rule has let through.", true),
            ("gantry_rule_bytes_total", "Bytes that a security group's rule has let through.", false),
        ] {
            heading(&mut text, name, help);
            for group in &groups {
                for rule in &group.spec.rules {
                    let rule = rule.to_string();
                    let counted = overlay.counters.of_rule(group.metadata.uuid, &rule);
                    let value = if is_packets { counted.packets } else { counted.bytes };
                    line(&mut text, name, &[("security_group", group.name()), ("rule", rule.as_str())], value);
                }
            }
        }
    });
    Ok(text)
}

fn heading(text: &mut String, name: &str, help: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter");
}

fn line(text: &mut String, name: &str, labels: &[(&str, &str)], value: u64) {
    let escaped = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let labels: Vec<_> = labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
    let _ = writeln!(text, "{name}{{{}}} {value}", labels.join(","));
}
