//! What befalls the agent, and where.

use std::fmt;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// How a case treats its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Way {
    /// SIGKILL, and once more in the successor's life.
    Kill,
    /// What was asked fails there once. After the deed: it is done, and its
    /// failure is said, so that it is done again.
    Fail,
    /// It fails twice, then succeeds.
    FailTwice,
}

/// One life story with its faults: it follows from these three alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    pub seed: u64,
    pub way: Way,
    /// The point, counted from 1.
    pub point: usize,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = match self.way {
            Way::Kill => "kill",
            Way::Fail => "fail",
            Way::FailTwice => "fail-twice",
        };
        write!(f, "--seed {} --way {way} --point {}", self.seed, self.point)
    }
}

/// What a point comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Go,
    Fail,
    Kill,
}

/// Where the second death waits for the successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    /// After so many points of its life.
    After(usize),
    /// At the point where its predecessor died, or what follows that.
    Same,
}

/// Counts points, and lets the case's fault happen at its own.
#[derive(Debug)]
pub struct Faults {
    case: Option<Case>,
    again: Again,
    /// Seconds until a successor is there.
    pub pause: u64,
    /// Every point that was passed, by name.
    pub passed: Vec<String>,
    /// Where something happened.
    pub struck: Vec<String>,
    /// Of the present life.
    lived: usize,
    left: u32,
}

impl Faults {
    pub fn new(case: Option<Case>) -> Self {
        let seed = case.map_or(0, |case| case.seed ^ ((case.point as u64) << 32));
        let mut random = StdRng::seed_from_u64(seed);
        let again = match random.random_range(0..4) {
            0 => Again::After(1),
            1 => Again::Same,
            2 => Again::After(random.random_range(1..=12)),
            _ => Again::After(random.random_range(1..=120)),
        };
        let left = match case.map(|case| case.way) {
            None => 0,
            Some(Way::Fail) => 1,
            Some(Way::Kill | Way::FailTwice) => 2,
        };
        Self {
            case,
            again,
            pause: random.random_range(1..=9),
            passed: Vec::new(),
            struck: Vec::new(),
            lived: 0,
            left,
        }
    }

    /// The next point; it is named after what is done there. Where nothing can
    /// fail, the fault waits for the next point.
    pub fn at(&mut self, point: &str, can_fail: bool) -> Verdict {
        self.passed.push(point.to_owned());
        self.lived += 1;
        let Some(case) = self.case.filter(|_| self.left > 0) else {
            return Verdict::Go;
        };
        let due = match self.struck.first() {
            None => self.passed.len() >= case.point,
            Some(first) if case.way == Way::Kill => match self.again {
                Again::After(points) => self.lived >= points,
                Again::Same => first == point,
            },
            Some(first) => first == point,
        };
        if !due || (case.way != Way::Kill && !can_fail) {
            return Verdict::Go;
        }
        self.left -= 1;
        self.struck.push(point.to_owned());
        match case.way {
            Way::Kill => {
                self.lived = 0;
                Verdict::Kill
            }
            Way::Fail | Way::FailTwice => Verdict::Fail,
        }
    }
}
