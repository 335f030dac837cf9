// SPDX-License-Identifier: GPL-2.0
//! The figures, as a table and as JSON.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// A name.
pub type Name = Cow<'static, str>;

/// What one unit of the clock is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Instructions that the machine executed, on all its CPUs, while the thread ran.
    Instructions,
    /// Nanoseconds.
    Ns,
}

/// Two things measured in turn, in units per page.
#[derive(Debug, Serialize, Deserialize)]
pub struct Pair {
    /// What is measured.
    pub name: Name,
    /// Our side.
    pub ours: Name,
    /// The other side.
    pub theirs: Name,
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
            name: name.into(),
            ours: ours.into(),
            theirs: theirs.into(),
            ours_per_page: median(samples.iter().map(|s| s.0)),
            theirs_per_page: median(samples.iter().map(|s| s.1)),
            ratio: median(samples.iter().map(|s| s.0 / s.1)),
            rounds: samples.len(),
        }
    }
}

/// The cost of the same move while something else grows.
#[derive(Debug, Serialize, Deserialize)]
pub struct Growth {
    /// What grows.
    pub what: Name,
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
            what: what.into(),
            points,
            spread,
        }
    }
}

/// What a TD's page takes of the TDX module.
#[derive(Debug, Serialize, Deserialize)]
pub struct Calls {
    /// How pages are moved.
    pub name: Name,
    /// Pages that moved.
    pub pages: u64,
    /// SEAMCALLs per page.
    pub seamcalls_per_page: f64,
    /// Times per page that vCPUs are made to leave the guest.
    pub kicks_per_page: f64,
    /// What the emulated TDX module takes of the clock, per page.
    #[serde(default)]
    pub module_per_page: f64,
    /// Instructions per page without those that the emulated TDX module takes; it
    /// counts in no other unit.
    pub host_per_page: Option<f64>,
}

impl Calls {
    /// Of rounds that move as many pages in the same way, of each figure the one in the middle.
    ///
    /// # Panics
    ///
    /// There is no round.
    pub fn median(rounds: Vec<Self>) -> Self {
        let of = |figure: fn(&Self) -> f64| median(rounds.iter().map(figure));
        let hosts: Option<Vec<_>> = rounds.iter().map(|round| round.host_per_page).collect();
        Self {
            name: rounds[0].name.clone(),
            pages: rounds[0].pages,
            seamcalls_per_page: of(|round| round.seamcalls_per_page),
            kicks_per_page: of(|round| round.kicks_per_page),
            module_per_page: of(|round| round.module_per_page),
            host_per_page: hosts.map(|hosts| median(hosts.into_iter())),
        }
    }
}

/// See [`Report::unbounded`].
const HELD_NOISE: f64 = 3.0;

/// For how long `migrate_folio` is refused, as somebody takes pages out of a file.
#[derive(Debug, Serialize, Deserialize)]
pub struct HeldUp {
    /// What is done.
    pub what: Name,
    /// Pages that it is done to.
    pub pages: u64,
    /// Units of the longest refusal.
    pub longest: f64,
    /// The longest that a page of another file has had to wait meanwhile: what the machine does to all.
    #[serde(default)]
    pub elsewhere: f64,
    /// What the whole takes, per page.
    pub per_page: f64,
}

/// How long a vCPU waits for a page that moves.
#[derive(Debug, Serialize, Deserialize)]
pub struct Pause {
    /// Whose it is.
    pub vm: Name,
    /// Pages that move together at most.
    pub batch: u64,
    /// Accesses to pages, each of which may have to wait.
    pub accesses: usize,
    /// Units, beyond an access while nothing moves: the 99th percentile.
    pub p99: f64,
    /// The longest.
    pub longest: f64,
    /// Units per page of the move, nobody being in the way; with what the emulated TDX module takes.
    pub move_per_page: f64,
    /// Units that one batch takes at most, beside nothing else.
    pub one_batch: f64,
    /// Units that an access takes beyond the others while nobody is in its way, the page has just moved and
    /// the other CPU is busy: the median.
    pub fault: f64,
}

/// What a function takes.
#[derive(Debug, Serialize, Deserialize)]
pub struct Function {
    /// Its name, and the module that it is in.
    pub name: String,
    /// Its own instructions.
    pub own_per_page: f64,
    /// With all that it calls.
    pub with_callees_per_page: f64,
}

/// Where the instructions of a measurement go.
#[derive(Debug, Serialize, Deserialize)]
pub struct Profile {
    /// Of what.
    pub name: Name,
    /// How often was looked.
    pub samples: u64,
    /// Instructions per page, all together.
    pub per_page: f64,
    /// The dearest functions.
    pub functions: Vec<Function>,
}

/// All figures of a run.
#[derive(Debug, Serialize, Deserialize)]
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
    /// How long mm is refused.
    #[serde(default)]
    pub held: Vec<HeldUp>,
    /// What a vCPU waits.
    #[serde(default)]
    pub pause: Vec<Pause>,
    /// Where the instructions go; empty if nobody asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<Profile>,
    /// What could not be measured, and why.
    pub notes: Vec<String>,
}

impl Report {
    /// Adds the figures of another run of the same kind.
    pub fn append(&mut self, other: Self) {
        self.pairs.extend(other.pairs);
        self.growth.extend(other.growth);
        self.tdx.extend(other.tdx);
        self.held.extend(other.held);
        self.pause.extend(other.pause);
        self.profiles.extend(other.profiles);
        self.notes.extend(other.notes);
    }

    /// What is done to files for which mm is refused for longer the larger they are: it is to be done by
    /// parts, one of which may take three times as long as another.
    pub fn unbounded(&self) -> Vec<String> {
        let longer = |small: &HeldUp, large: &HeldUp| {
            small.what == large.what
                && small.pages < large.pages
                && large.longest > small.longest.max(large.elsewhere) * HELD_NOISE
        };
        let pairs = self.held.iter().flat_map(|small| {
            let larger = self.held.iter().filter(move |large| longer(small, large));
            larger.map(move |large| (small, large))
        });
        pairs
            .map(|(small, large)| {
                format!(
                    "{}: mm is refused {} pages for {:.0}, and {} pages for {:.0}",
                    small.what, small.pages, small.longest, large.pages, large.longest
                )
            })
            .collect()
    }

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
        for h in &self.held {
            println!(
                "{:<42} {} pages: refused for {:.0} {unit} at most (another file {:.0}), {:.0} per page",
                h.what, h.pages, h.longest, h.elsewhere, h.per_page
            );
        }
        for p in &self.pause {
            println!(
                "{:<42} {:.0} longest, {:.0} 99th percentile; {:.0} {unit} per page",
                format!("pause of a {}, batch {}", p.vm, p.batch),
                p.longest,
                p.p99,
                p.move_per_page
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

/// The value that 99 of 100 do not exceed.
pub fn p99(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let nr = (values.len() * 99).div_ceil(100);
    nr.checked_sub(1).map_or(f64::NAN, |nr| values[nr])
}

/// The one in the middle.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
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
    fn one_in_a_hundred_is_above_the_99th_percentile() {
        assert_eq!(p99((1..=200).map(f64::from).collect()), 198.0);
        assert_eq!(p99(vec![7.0]), 7.0);
        assert!(p99(Vec::new()).is_nan());
    }

    #[test]
    fn a_ratio_is_that_of_paired_rounds() {
        let p = Pair::new("x", ("a", "b"), &[(1.0, 2.0), (10.0, 20.0), (3.0, 6.0)]);
        assert_eq!((p.ratio, p.ours_per_page, p.rounds), (0.5, 3.0, 3));
    }

    #[test]
    fn what_mm_is_refused_for_longer_the_larger_the_file_is_told() {
        let held = |what: &'static str, pages, longest| HeldUp {
            what: what.into(),
            pages,
            longest,
            elsewhere: 0.0,
            per_page: 1.0,
        };
        let mut report = Report {
            kernel: String::new(),
            unit: Unit::Instructions,
            pages: 1,
            pairs: Vec::new(),
            growth: Vec::new(),
            tdx: Vec::new(),
            held: vec![
                held("hole", 10, 100.0),
                held("VM", 10, 40.0),
                held("hole", 40, 140.0),
                held("VM", 40, 59.0),
            ],
            pause: Vec::new(),
            profiles: Vec::new(),
            notes: Vec::new(),
        };
        assert_eq!(report.unbounded(), Vec::<String>::new());
        report.held[3].longest = 160.0;
        let told = "VM: mm is refused 10 pages for 40, and 40 pages for 160";
        assert_eq!(report.unbounded(), [told]);
        report.held[3].elsewhere = 150.0;
        assert_eq!(report.unbounded(), Vec::<String>::new());
    }

    #[test]
    fn a_spread_is_the_dearest_by_the_cheapest() {
        let g = Growth::new("x", vec![(1, 10.0), (2, 8.0), (4, 12.0)]);
        assert_eq!(g.spread, 1.5);
        assert!(Growth::new("x", Vec::new()).spread.is_nan());
    }
}
