// SPDX-License-Identifier: GPL-2.0
//! Two runs side by side.

use crate::report::Report;

/// A figure that is worse by more than this part of it is worth a word.
const WORSE: f64 = 0.05;

/// A figure of both runs: the less the better.
#[derive(Debug, PartialEq)]
pub struct Row {
    /// What it is.
    pub name: String,
    /// Before.
    pub base: f64,
    /// Now.
    pub now: f64,
}

impl Row {
    /// Change as a part of what it was.
    pub fn change(&self) -> f64 {
        if self.now == self.base {
            // Also of nothing: there are figures that ought to be 0.
            return 0.0;
        }
        self.now / self.base - 1.0
    }

    /// Whether it is worse by more than 5 %.
    pub fn is_worse(&self) -> bool {
        self.change() > WORSE
    }
}

fn figures(report: &Report) -> Vec<(String, f64)> {
    let mut all = Vec::new();
    let mut add = |name: String, value: f64| all.push((name, value));
    for p in &report.pairs {
        add(format!("{}: {}", p.name.trim(), p.ours), p.ours_per_page);
        add(format!("{}: ratio to {}", p.name.trim(), p.theirs), p.ratio);
    }
    for g in &report.growth {
        for (size, cost) in &g.points {
            add(format!("{}, n = {size}", g.what), *cost);
        }
    }
    for c in &report.tdx {
        add(format!("{}: SEAMCALLs", c.name), c.seamcalls_per_page);
        add(format!("{}: kicks", c.name), c.kicks_per_page);
        if let Some(cost) = c.host_per_page {
            add(format!("{}: beside the TDX module's", c.name), cost);
        }
    }
    for h in &report.held {
        let of = format!("{}, {} pages", h.what, h.pages);
        add(format!("{of}: refused for at most"), h.longest);
        add(format!("{of}: takes, a page"), h.per_page);
    }
    for p in &report.pause {
        let of = format!("{}, batch {}", p.vm, p.batch);
        add(format!("{of}: longest pause"), p.longest);
        add(format!("{of}: 99th percentile"), p.p99);
    }
    all
}

/// The figures that both have.
pub fn rows(base: &Report, now: &Report) -> Vec<Row> {
    let before = figures(base);
    figures(now)
        .into_iter()
        .filter_map(|(name, now)| {
            let (_, base) = before.iter().find(|(known, _)| *known == name)?;
            Some(Row {
                name,
                base: *base,
                now,
            })
        })
        .collect()
}

/// Prints them; says how many are worse.
pub fn print(rows: &[Row]) -> usize {
    println!("{:<70} {:>10} {:>10} {:>7}", "", "base", "now", "");
    for row in rows {
        let decimals = if row.base < 100.0 { 3 } else { 0 };
        println!(
            "{:<70} {:>10.decimals$} {:>10.decimals$} {:>+6.1}%{}",
            row.name,
            row.base,
            row.now,
            row.change() * 100.0,
            if row.is_worse() { "  WORSE" } else { "" }
        );
    }
    rows.iter().filter(|row| row.is_worse()).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Calls, Unit};

    fn report(cost: f64) -> Report {
        Report {
            kernel: String::new(),
            unit: Unit::Instructions,
            pages: 1,
            pairs: Vec::new(),
            growth: Vec::new(),
            tdx: vec![Calls {
                name: "offline".into(),
                pages: 1,
                seamcalls_per_page: 3.0,
                kicks_per_page: 0.0,
                module_per_page: 0.0,
                host_per_page: Some(cost),
            }],
            held: Vec::new(),
            pause: Vec::new(),
            profiles: Vec::new(),
            notes: Vec::new(),
        }
    }

    #[test]
    fn what_is_worse_by_five_percent_is_marked() {
        let worse = |now| {
            rows(&report(1000.0), &report(now))
                .iter()
                .any(Row::is_worse)
        };
        assert!(!worse(1049.0));
        assert!(worse(1051.0));
        assert!(!worse(900.0));
    }

    #[test]
    fn nothing_may_stay_nothing() {
        let row = |base, now| Row {
            name: String::new(),
            base,
            now,
        };
        assert_eq!(row(0.0, 0.0).change(), 0.0);
        assert!(!row(0.0, 0.0).is_worse());
        assert!(row(0.0, 0.1).is_worse());
    }

    #[test]
    fn what_only_one_run_has_is_left_out() {
        let mut base = report(1.0);
        base.tdx.clear();
        assert_eq!(rows(&base, &report(1.0)), []);
        assert_eq!(rows(&report(1.0), &report(1.0)).len(), 3);
    }
}
