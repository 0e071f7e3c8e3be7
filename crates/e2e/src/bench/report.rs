//! Figures as a table for people and as JSON for programs.

use std::time::Duration;

use anyhow::Result;
use comfy_table::{Table, presets::NOTHING};
use serde::Serialize;

/// In which direction a ratio of product to peer is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    Lower,
    Higher,
}

/// One thing that was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// What, with the units last: `migrate_blackout_ms`.
    pub name: String,
    pub product: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// The ratio that is promised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<f64>,
    pub better: Better,
    /// Measurements behind `product`.
    pub runs: usize,
}

impl Figure {
    /// Medians of both sides, in milliseconds.
    pub fn medians(name: &str, product: &[Duration], peer: &[Duration], limit: f64) -> Self {
        let ms = |values| super::median(values).as_secs_f64() * 1000.0;
        Self::against(name, ms(product), ms(peer), Better::Lower, product.len()).promise(limit)
    }

    pub fn against(name: &str, product: f64, peer: f64, better: Better, runs: usize) -> Self {
        let ratio = (peer > 0.0).then_some(product / peer);
        Self { name: name.to_owned(), product, peer: Some(peer), ratio, limit: None, better, runs }
    }

    /// A figure without a peer.
    pub fn alone(name: &str, product: f64, better: Better, runs: usize) -> Self {
        Self { name: name.to_owned(), product, peer: None, ratio: None, limit: None, better, runs }
    }

    pub fn promise(mut self, limit: f64) -> Self {
        self.limit = Some(limit);
        self
    }

    /// False if a promise is broken.
    pub fn holds(&self) -> bool {
        match (self.limit, self.ratio, self.better) {
            (None, _, _) => true,
            (Some(limit), Some(ratio), Better::Lower) => ratio <= limit,
            (Some(limit), Some(ratio), Better::Higher) => ratio >= limit,
            (Some(limit), None, Better::Lower) => self.product <= limit,
            (Some(limit), None, Better::Higher) => self.product >= limit,
        }
    }
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    pub figures: Vec<Figure>,
}

impl Report {
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(NOTHING).set_header(["FIGURE", "GANTRY", "PEER", "RATIO", "LIMIT", "HOLDS", "RUNS"]);
        let number = |value: Option<f64>, digits: usize| value.map_or("-".into(), |value| format!("{value:.digits$}"));
        for figure in &self.figures {
            let limit = figure.limit.map(|limit| match figure.better {
                Better::Lower => format!("<= {limit}"),
                Better::Higher => format!(">= {limit}"),
            });
            table.add_row([
                figure.name.clone(),
                number(Some(figure.product), 1),
                number(figure.peer, 1),
                number(figure.ratio, 2),
                limit.unwrap_or("-".into()),
                if figure.holds() { "yes" } else { "NO" }.into(),
                figure.runs.to_string(),
            ]);
        }
        table.to_string()
    }

    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_is_about_the_ratio_if_there_is_a_peer() {
        let lower = Figure::against("a_ms", 115.0, 100.0, Better::Lower, 3);
        assert!(lower.clone().promise(1.15).holds());
        assert!(!lower.promise(1.1).holds());
        let higher = Figure::against("b_per_s", 90.0, 100.0, Better::Higher, 3);
        assert!(higher.clone().promise(0.9).holds() && !higher.promise(1.0).holds());
        assert!(!Figure::alone("lost", 1.0, Better::Lower, 1).promise(0.0).holds());
        let report = Report { figures: vec![Figure::medians("c_ms", &[], &[], 1.0)] };
        assert!(report.table().contains("c_ms") && report.json().unwrap().contains("\"c_ms\""));
    }
}
