//! Why a VM is where it is, for people: a sentence, then a table of hosts with what gave each its score.

use std::fmt::Write;

use gantry_api::rest::VmExplanation;

use super::{Table, printable};

pub fn explanation_text(explanation: &VmExplanation) -> String {
    let mut text = format!("{}\n\n", printable(&explanation.summary));
    let mut table = Table::new(&["HOST", "CLUSTER", "FITS", "SCORE", "REASON"]);
    for verdict in &explanation.hosts {
        let here = if explanation.host.as_ref() == Some(&verdict.host) { " (here)" } else { "" };
        table.row(vec![
            format!("{}{here}", verdict.host),
            verdict.cluster.to_string(),
            super::yes_no(verdict.fits),
            verdict.score.map_or_else(|| "-".to_owned(), |score| format!("{score:.3}")),
            verdict.reason.clone().unwrap_or_else(|| "the best".to_owned()),
        ]);
    }
    text += &table.render(None);
    let scored = explanation.hosts.iter().filter(|verdict| !verdict.terms.is_empty());
    let mut terms = Table::new(&["HOST", "TERM", "VALUE", "WEIGHT", "POINTS"]);
    let mut any = false;
    for verdict in scored {
        for term in &verdict.terms {
            any = true;
            terms.row(vec![
                verdict.host.to_string(),
                term.name.clone(),
                format!("{:.3}", term.value),
                format!("{}", term.weight),
                format!("{:.3}", term.points),
            ]);
        }
    }
    if any {
        let _ = write!(text, "\n{}", terms.render(None));
    }
    text
}
