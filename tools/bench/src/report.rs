// SPDX-License-Identifier: GPL-2.0
//! The figures, as a table and as JSON.

use serde::Serialize;

/// What one unit of the clock is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Instructions that the machine executed, on all its CPUs; where all of them
    /// wait, the clock goes on to the next timer.
    Instructions,
    /// Nanoseconds.
    Ns,
}

/// Two things measured in turn, in units per page.
#[derive(Debug, Serialize)]
pub struct Pair {
    /// What is measured.
    pub name: &'static str,
    /// Our side.
    pub ours: &'static str,
    /// The other side.
    pub theirs: &'static str,
    /// Median over the rounds.
    pub ours_per_page: f64,
    /// Median over the rounds.
    pub theirs_per_page: f64,
    /// Median of the rounds' ratios: below 1 ours is cheaper.
    pub ratio: f64,
    /// Rounds.
    pub rounds: usize,
}

impl Pair {
    /// From rounds of (ours, theirs), in units per page.
    pub fn new(
        name: &'static str,
        (ours, theirs): (&'static str, &'static str),
        samples: &[(f64, f64)],
    ) -> Self {
        Self {
            name,
            ours,
            theirs,
            ours_per_page: median(samples.iter().map(|s| s.0)),
            theirs_per_page: median(samples.iter().map(|s| s.1)),
            ratio: median(samples.iter().map(|s| s.0 / s.1)),
            rounds: samples.len(),
        }
    }
}

/// The cost of the same move while something else grows.
#[derive(Debug, Serialize)]
pub struct Growth {
    /// What grows.
    pub what: &'static str,
    /// How large it is, and units per page of the move then.
    pub points: Vec<(u64, f64)>,
    /// The dearest point by the cheapest one: 1 is flat.
    pub spread: f64,
}

impl Growth {
    /// From points of (size, units per page).
    pub fn new(what: &'static str, points: Vec<(u64, f64)>) -> Self {
        let costs = || points.iter().map(|p| p.1);
        let spread = costs().fold(f64::NAN, f64::max) / costs().fold(f64::NAN, f64::min);
        Self {
            what,
            points,
            spread,
        }
    }
}

/// What a TD's page takes of the TDX module.
#[derive(Debug, Serialize)]
pub struct Calls {
    /// How pages are moved.
    pub name: &'static str,
    /// Pages that moved.
    pub pages: u64,
    /// SEAMCALLs per page.
    pub seamcalls_per_page: f64,
    /// Times per page that vCPUs are made to leave the guest.
    pub kicks_per_page: f64,
    /// Instructions per page without those that the emulated TDX module takes; it
    /// counts in no other unit.
    pub host_per_page: Option<f64>,
}

/// What a function takes.
#[derive(Debug, Serialize)]
pub struct Function {
    /// Its name, and the module that it is in.
    pub name: String,
    /// Its own instructions.
    pub own_per_page: f64,
    /// With all that it calls.
    pub with_callees_per_page: f64,
}

/// Where the instructions of a measurement go.
#[derive(Debug, Serialize)]
pub struct Profile {
    /// Of what.
    pub name: &'static str,
    /// How often was looked.
    pub samples: u64,
    /// Instructions per page, all together.
    pub per_page: f64,
    /// The dearest functions.
    pub functions: Vec<Function>,
}

/// All figures of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Kernel release.
    pub kernel: String,
    /// What is counted.
    pub unit: Unit,
    /// Pages that each side moves or populates in a round.
    pub pages: u64,
    /// Ours beside others.
    pub pairs: Vec<Pair>,
    /// What may not grow.
    pub growth: Vec<Growth>,
    /// SEAMCALLs.
    pub tdx: Vec<Calls>,
    /// Where the instructions go; empty if nobody asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<Profile>,
    /// What could not be measured, and why.
    pub notes: Vec<String>,
}

impl Report {
    /// Prints the table.
    pub fn print(&self) {
        let unit = match self.unit {
            Unit::Instructions => "instructions",
            Unit::Ns => "ns",
        };
        println!(
            "{:<42} {:>9} {:>9} {:>6}",
            format!("{unit} per page"),
            "ours",
            "theirs",
            "ratio"
        );
        for p in &self.pairs {
            println!(
                "{:<42} {:>9.0} {:>9.0} {:>6.2}",
                p.name, p.ours_per_page, p.theirs_per_page, p.ratio
            );
            println!("    {} / {}", p.ours, p.theirs);
        }
        for g in &self.growth {
            let points: Vec<String> = g
                .points
                .iter()
                .map(|(size, cost)| format!("{size}: {cost:.0}"))
                .collect();
            println!(
                "{:<42} {} (spread {:.2})",
                g.what,
                points.join("  "),
                g.spread
            );
        }
        for c in &self.tdx {
            let host = c.host_per_page.map_or(String::new(), |cost| {
                format!(", {cost:.0} {unit} beside the TDX module's")
            });
            println!(
                "{:<42} {:.2} SEAMCALLs, {:.3} kicks{host}",
                c.name, c.seamcalls_per_page, c.kicks_per_page
            );
        }
        for p in &self.profiles {
            println!(
                "{}: {:.0} {unit} per page, {} samples",
                p.name, p.per_page, p.samples
            );
            println!("{:>9} {:>13}  function", "its own", "with callees");
            for f in &p.functions {
                println!(
                    "{:>9.0} {:>13.0}  {}",
                    f.own_per_page, f.with_callees_per_page, f.name
                );
            }
        }
        for note in &self.notes {
            println!("note: {note}");
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
        assert!(median(std::iter::empty()).is_nan());
    }

    #[test]
    fn a_ratio_is_that_of_paired_rounds() {
        let p = Pair::new("x", ("a", "b"), &[(1.0, 2.0), (10.0, 20.0), (3.0, 6.0)]);
        assert_eq!((p.ratio, p.ours_per_page, p.rounds), (0.5, 3.0, 3));
    }

    #[test]
    fn a_spread_is_the_dearest_by_the_cheapest() {
        let g = Growth::new("x", vec![(1, 10.0), (2, 8.0), (4, 12.0)]);
        assert_eq!(g.spread, 1.5);
        assert!(Growth::new("x", Vec::new()).spread.is_nan());
    }
}
