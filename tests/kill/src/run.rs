//! Runs a story: the world answers, the agent's process is killed and started
//! again.

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

use anyhow::{Context as _, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::agent::SAMPLE;
use crate::fault::{Case, Faults, Verdict, Way};
use crate::story::Story;
use crate::wire::{Answer, Ask, Line};
use crate::world::World;

/// The agent asks something within this time, in milliseconds, or it hangs.
const PATIENCE_MILLIS: u16 = 30_000;
/// Lives that a story may take.
const LIVES: u32 = 8;

/// What came of a story.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Every point that was passed, by name.
    pub passed: Vec<String>,
    /// Where the case's faults happened.
    pub struck: Vec<String>,
    /// Promises that were broken.
    pub broken: Vec<String>,
    /// The steps that the engine did, as it names them.
    pub steps: Vec<String>,
}

/// The points of a life without faults.
///
/// # Errors
///
/// When it cannot be run, or a promise is broken even so.
pub fn points(program: &Path) -> Result<Vec<String>> {
    let outcome = run(program, None)?;
    if !outcome.broken.is_empty() {
        bail!("without any fault: {}", outcome.broken.join("\n"));
    }
    Ok(outcome.passed)
}

/// Runs the story with the case's faults in it; `program` is this crate's.
///
/// # Errors
///
/// When this computer cannot run it.
pub fn run(program: &Path, case: Option<Case>) -> Result<Outcome> {
    let mut scratch = tempfile::Builder::new();
    let scratch = scratch.prefix("surplus-kill-");
    // In memory, as on the appliance: a death loses nothing that was written,
    // and what a power cut loses is another test's.
    let scratch = match Path::new("/dev/shm") {
        memory if memory.is_dir() => scratch.tempdir_in(memory),
        _ => scratch.tempdir(),
    };
    let scratch = scratch.context("could not make a temporary directory")?;
    let mut stage = Stage::set(program, scratch.path(), case)?;
    stage.play()?;
    Ok(Outcome {
        steps: stage.steps()?,
        passed: stage.faults.passed,
        struck: stage.faults.struck,
        broken: stage.world.broken,
    })
}

struct Stage<'a> {
    program: &'a Path,
    scratch: PathBuf,
    listener: UnixListener,
    world: World,
    story: Story,
    faults: Faults,
    case: Option<Case>,
}

/// How a life went on after something was asked.
enum Next {
    Lives,
    Killed,
    Over,
}

impl<'a> Stage<'a> {
    fn set(program: &'a Path, scratch: &Path, case: Option<Case>) -> Result<Self> {
        let socket = scratch.join("world");
        let listener = UnixListener::bind(&socket).context("could not listen for the agent")?;
        let mut world = World::on(&scratch.join("state"));
        let stand_in = scratch.join("qemu-img");
        let (program_path, socket) = (program.display(), socket.display());
        let script = format!("#!/bin/sh\nexec '{program_path}' qemu-img '{socket}' \"$@\"\n");
        fs::write(&stand_in, script)?;
        fs::set_permissions(&stand_in, fs::Permissions::from_mode(0o755))?;
        let story = Story::begin(&mut world)?;
        Ok(Self {
            program,
            scratch: scratch.to_owned(),
            listener,
            world,
            story,
            faults: Faults::new(case),
            case,
        })
    }

    fn play(&mut self) -> Result<()> {
        for _ in 0..LIVES {
            let mut child = self.spawn()?;
            let next = self.live(&mut child);
            if next.is_err() {
                let _ = child.kill();
            }
            // Its end is waited for: nothing of it is done any more.
            let status = child.wait()?;
            match next? {
                Next::Over => {
                    // A story that broke off is not over: of course something is left.
                    if self.world.broken.is_empty() {
                        self.world.judge_remains();
                    }
                    return Ok(());
                }
                Next::Killed => {}
                Next::Lives => self.judge_exit(status)?,
            }
            if !self.world.broken.is_empty() {
                return Ok(());
            }
            self.world.agent_died();
            let pause = self.faults.pause * 1000;
            self.world.unseen += pause + millis(SAMPLE);
            self.world.pass(pause);
        }
        self.world.breaks(format!("the agent died {LIVES} times"));
        Ok(())
    }

    /// The agent ended by itself: it may, where its ledger failed at the start,
    /// and is started again.
    fn judge_exit(&mut self, status: ExitStatus) -> Result<()> {
        let was_told = self.case.is_some_and(|case| case.way != Way::Kill);
        if was_told && !self.faults.struck.is_empty() && status.code() == Some(1) {
            return Ok(());
        }
        let log = fs::read_to_string(self.log()).context("could not read the agent's log")?;
        self.world
            .breaks(format!("the agent ended ({status}): {log}"));
        Ok(())
    }

    fn steps(&self) -> Result<Vec<String>> {
        let log = fs::read_to_string(self.log()).context("could not read the agent's log")?;
        let done = log
            .lines()
            .filter_map(|line| line.split_once(" done step=\""));
        Ok(done
            .map(|(_, step)| step.trim_end_matches('"').to_owned())
            .collect())
    }

    fn log(&self) -> PathBuf {
        self.scratch.join("agent.log")
    }

    fn spawn(&self) -> Result<Child> {
        let log = File::options().create(true).append(true).open(self.log())?;
        Command::new(self.program)
            .arg("agent")
            .arg(self.scratch.join("world"))
            .arg(&self.world.state)
            .stderr(log)
            .spawn()
            .with_context(|| format!("could not start {}", self.program.display()))
    }

    /// Serves one process, and the programs that it runs, to its end.
    fn live(&mut self, child: &mut Child) -> Result<Next> {
        let mut lines = vec![self.accept()?];
        loop {
            let Some(ready) = self.wait(&mut lines)? else {
                continue;
            };
            let Some(ask) = lines[ready].receive::<Ask>()? else {
                // The first is the agent's own.
                if ready == 0 {
                    return Ok(Next::Lives);
                }
                lines.remove(ready);
                continue;
            };
            match self.answer(&mut lines[ready], ask)? {
                Next::Lives => {}
                Next::Over => return Ok(Next::Over),
                Next::Killed => {
                    child.kill().context("could not kill the agent")?;
                    self.let_orphans_finish(lines)?;
                    return Ok(Next::Killed);
                }
            }
        }
    }

    /// Waits until somebody has something to say: which line it is. A new line
    /// is taken up.
    fn wait(&self, lines: &mut Vec<Line>) -> Result<Option<usize>> {
        let listener = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        let mut waiting = lines
            .iter()
            .map(|line| PollFd::new(line.stream().as_fd(), PollFlags::POLLIN))
            .chain(listener)
            .collect::<Vec<_>>();
        if poll(&mut waiting, PollTimeout::from(PATIENCE_MILLIS))? == 0 {
            bail!("the agent hangs after {:?}", self.faults.passed.last());
        }
        let ready = waiting.iter().position(|it| it.any() == Some(true));
        if ready == Some(lines.len()) {
            lines.push(self.accept()?);
            return Ok(None);
        }
        Ok(ready)
    }

    fn accept(&self) -> Result<Line> {
        let listener = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        if poll(&mut listener.clone(), PollTimeout::from(PATIENCE_MILLIS))? == 0 {
            let log = fs::read_to_string(self.log()).unwrap_or_default();
            bail!("the agent does not connect: {log}");
        }
        Ok(Line::new(self.listener.accept()?.0))
    }

    /// What a killed agent had started goes on to its end.
    fn let_orphans_finish(&self, lines: Vec<Line>) -> Result<()> {
        for mut line in lines.into_iter().skip(1) {
            // What it had asked, or asks still, may be.
            while line.send(&Answer::Go).is_ok() && line.receive::<Ask>()?.is_some() {}
        }
        Ok(())
    }

    fn answer(&mut self, line: &mut Line, ask: Ask) -> Result<Next> {
        let (name, can_fail) = match &ask {
            Ask::Hello => {
                let orders = self.world.orders(false);
                line.send(&Answer::Orders(Box::new(orders)))?;
                return Ok(Next::Lives);
            }
            Ask::Domains => ("look at the domains".to_owned(), true),
            Ask::Usage { name } => (format!("read the counters of {name}"), true),
            Ask::Create { name, .. } => (format!("create {name}"), true),
            Ask::Shutdown { name } => (format!("shut down {name}"), true),
            Ask::Destroy { name } => (format!("destroy {name}"), true),
            Ask::Image { digest, .. } => (format!("fetch {digest}"), true),
            Ask::Point(name) => (name.clone(), true),
            Ask::Done(name) => (name.clone(), false),
            Ask::Report(_) => ("report".to_owned(), true),
        };
        let verdict = match self.faults.at(&name, can_fail) {
            Verdict::Kill => return Ok(Next::Killed),
            verdict => verdict,
        };
        if verdict == Verdict::Fail {
            self.world.unseen += millis(SAMPLE);
            let answer = match ask {
                Ask::Report(_) => self.unheard(),
                _ => Answer::Fail,
            };
            line.send(&answer)?;
            return Ok(Next::Lives);
        }
        let changes = !matches!(
            ask,
            Ask::Domains | Ask::Usage { .. } | Ask::Image { .. } | Ask::Point(_) | Ask::Done(_)
        );
        let is_report = matches!(ask, Ask::Report(_));
        let mut answer = self.act(ask);
        if changes {
            match self.faults.at(&format!("{name}, done"), true) {
                Verdict::Kill => return Ok(Next::Killed),
                Verdict::Fail if is_report => answer = self.unheard(),
                Verdict::Fail => {
                    self.world.unseen += millis(SAMPLE);
                    answer = Answer::Fail;
                }
                Verdict::Go => {}
            }
        }
        let over = matches!(answer, Answer::End);
        line.send(&answer)?;
        Ok(if over { Next::Over } else { Next::Lives })
    }

    /// The answer to a report got lost: nothing new is said, nothing is
    /// acknowledged, and time has passed.
    fn unheard(&mut self) -> Answer {
        self.world.pass(1000);
        Answer::Orders(Box::new(self.world.orders(false)))
    }

    fn act(&mut self, ask: Ask) -> Answer {
        let world = &mut self.world;
        match ask {
            Ask::Domains => Answer::Domains(world.seen()),
            Ask::Usage { name } => world.usage_of(&name).map_or(Answer::Fail, Answer::Usage),
            Ask::Create { name, xml } if world.create(&name, &xml) => Answer::Go,
            Ask::Create { .. } => Answer::Fail,
            Ask::Shutdown { name } => {
                world.shutdown(&name);
                Answer::Go
            }
            Ask::Destroy { name } => {
                world.remove(&name);
                Answer::Go
            }
            Ask::Image { .. } if world.images_offline => Answer::Fail,
            Ask::Image { digest, offset } => {
                let image = world.images.get(&digest);
                let offset = usize::try_from(offset).unwrap_or(usize::MAX);
                let rest = image.and_then(|image| image.get(offset..));
                rest.map_or(Answer::NoImage, |rest| Answer::Image(rest.to_vec()))
            }
            Ask::Report(report) => {
                world.report(report);
                if !world.broken.is_empty() || self.story.goes_on(world) {
                    return Answer::End;
                }
                Answer::Orders(Box::new(world.orders(true)))
            }
            Ask::Hello | Ask::Point(_) | Ask::Done(_) => Answer::Go,
        }
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
