//! Tables: aligned columns without lines; a row is one line, however narrow the terminal.

use std::collections::BTreeMap;

use comfy_table::{ContentArrangement, Table as Grid, presets};
use gantry_types::{Resource, Timestamp};

use super::printable;

/// Columns whose text may be cut on a terminal if they are the last one.
const EXPLANATIONS: [&str; 2] = ["REASON", "ERROR"];
/// Less of an explanation than this says nothing.
const LEAST_EXPLANATION: usize = 20;
const GAP: u8 = 2;

/// What rows show besides their object.
#[derive(Debug, Clone)]
pub struct Surroundings {
    pub now: Timestamp,
    /// How many VMs each host has; absent where nobody asked.
    pub vms_of_hosts: Option<BTreeMap<String, usize>>,
}

impl Surroundings {
    pub fn at(now: Timestamp) -> Self {
        Self { now, vms_of_hosts: None }
    }
}

/// A kind of object as a row of a table.
pub trait Row: Resource {
    /// As in "no VMs".
    const PLURAL_FOR_PEOPLE: &'static str;
    const HEADERS: &'static [&'static str];
    /// Further columns of `-o wide`.
    const WIDE_HEADERS: &'static [&'static str];

    fn cells(&self, around: &Surroundings) -> Vec<String>;
    fn wide_cells(&self) -> Vec<String>;
}

/// Text in rows and columns.
#[derive(Debug, Clone, Default)]
pub struct Table {
    headers: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(headers: &[&str]) -> Self {
        Self { headers: headers.iter().map(|&header| header.to_owned()).collect(), rows: Vec::new() }
    }

    pub fn of<T: Row>(objects: &[T], wide: bool, around: &Surroundings) -> Self {
        let mut table = Self::new(T::HEADERS);
        if wide {
            table.headers.extend(T::WIDE_HEADERS.iter().map(|&header| header.to_owned()));
        }
        for object in objects {
            let mut cells = object.cells(around);
            if wide {
                cells.extend(object.wide_cells());
            }
            table.row(cells);
        }
        table
    }

    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.headers.len(), "a row has a cell for each header");
        // An empty cell would let the eye slip into the next column.
        let clean = |cell: String| if cell.is_empty() { "-".to_owned() } else { printable(&cell).replace('\n', " ") };
        self.rows.push(cells.into_iter().map(clean).collect());
    }

    /// For rows that are printed one at a time: `widths` grows with what has been printed, so that rows printed later
    /// stand below the earlier ones. The header is printed when there are no widths yet.
    pub fn render_below(&self, widths: &mut Vec<usize>) -> String {
        let first = widths.is_empty();
        widths.resize(self.headers.len(), 0);
        for cells in std::iter::once(&self.headers).chain(&self.rows) {
            for (width, cell) in widths.iter_mut().zip(cells) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let line = |cells: &Vec<String>| {
            let padded: String =
                cells.iter().zip(widths.iter()).map(|(cell, &width)| format!("{cell:<width$}  ")).collect();
            padded.trim_end().to_owned() + "\n"
        };
        std::iter::once(&self.headers).filter(|_| first).chain(&self.rows).map(line).collect()
    }

    /// Each row is one line and each column as wide as its content: names and uuids are there to be copied, so nothing
    /// is wrapped, and what is wider than a terminal of `width` columns runs over. Only an explanation in the last
    /// column is cut there; `describe` and a pipe have the whole.
    pub fn render(&self, width: Option<u16>) -> String {
        let room = width.and_then(|width| self.room_for_explanation(width.into()));
        let cut = |cells: &Vec<String>| {
            let mut cells = cells.clone();
            if let (Some(room), Some(last)) = (room, cells.last_mut()) {
                *last = shortened(last, room);
            }
            cells
        };
        let mut grid = Grid::new();
        grid.load_style(presets::NOTHING).force_no_tty().set_content_arrangement(ContentArrangement::Disabled);
        grid.set_header(&self.headers).add_rows(self.rows.iter().map(cut));
        for column in grid.column_iter_mut() {
            column.set_padding((0, u16::from(GAP)));
        }
        grid.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
    }

    /// How wide the last column may be, if it can be cut and enough of it remains to be of use.
    fn room_for_explanation(&self, width: usize) -> Option<usize> {
        let (last, others) = self.headers.split_last()?;
        if !EXPLANATIONS.contains(&last.as_str()) {
            return None;
        }
        let column = |at: usize| self.rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
        let taken: usize = others
            .iter()
            .enumerate()
            .map(|(at, header)| column(at).max(header.chars().count()) + usize::from(GAP))
            .sum();
        width.checked_sub(taken).filter(|room| *room >= LEAST_EXPLANATION)
    }
}

fn shortened(text: &str, room: usize) -> String {
    if text.chars().count() <= room {
        return text.to_owned();
    }
    text.chars().take(room - 1).chain(['…']).collect()
}
