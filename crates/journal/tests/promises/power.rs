//! Power cuts and deaths of the process, at every operation.

use proptest::prelude::*;
use surplus_journal::medium::{Fault, Kept};
use surplus_journal::{Journal, Memory};

use super::host::{Act, Host, SCRIPT, SETTINGS, every_power_cut};

/// Lets the process die at its `at`th operation, at which it may have no journal
/// yet. `None`: it did not come so far.
fn die_at(at: usize) -> Option<Option<Host>> {
    let memory = Memory::new();
    memory.fail(at, 1, Fault::Death);
    let Ok(mut host) = Host::new(&memory) else {
        return Some(None);
    };
    let survived = SCRIPT.iter().all(|act| host.act(act));
    (!survived).then_some(Some(host))
}

#[test]
fn a_power_cut_at_any_operation_loses_nothing_acknowledged() {
    let mut cuts = 0;
    let mut deaths = 0;
    while let Some(host) = die_at(deaths) {
        deaths += 1;
        let Some(host) = host else {
            continue;
        };
        every_power_cut(&host.memory, 1, |memory| {
            cuts += 1;
            let mut host = host.elsewhere();
            host.memory = memory.clone();
            host.reopen();
            host.goes_on();
        });
    }
    println!("{deaths} deaths, {cuts} power cuts");
    assert!(deaths > 30 && cuts > 1000);
}

#[test]
fn a_power_cut_at_the_creation_leaves_nothing_or_a_journal() {
    for at in 0..6 {
        let memory = Memory::new();
        memory.fail(at, 1, Fault::Death);
        let _ = Host::new(&memory);
        every_power_cut(&memory, 1, |memory| {
            let mut host = Host::new(memory).unwrap();
            host.goes_on();
        });
        memory.revive();
        Host::new(&memory).unwrap().goes_on();
    }
}

#[test]
fn the_death_of_the_process_at_any_operation_loses_nothing_acknowledged() {
    let mut deaths = 0;
    while let Some(host) = die_at(deaths) {
        deaths += 1;
        if let Some(mut host) = host {
            host.memory.revive();
            host.reopen();
            host.goes_on();
        }
    }
    assert!(deaths > 30);
}

#[test]
fn a_power_cut_at_any_operation_of_the_opening_after_one_loses_nothing() {
    let mut cuts = 0;
    let mut deaths = 0;
    while let Some(host) = die_at(deaths) {
        deaths += 1;
        let Some(host) = host else {
            continue;
        };
        // What was written is there, what was to follow is not.
        for kept in [Kept::Nothing, Kept::Bytes(40), Kept::Garbled(80), Kept::All] {
            let first = host.memory.duplicate();
            first.power_cut(|_| kept);
            for at in 0.. {
                let memory = first.duplicate();
                memory.fail(at, 1, Fault::Death);
                let opened = Journal::open(memory.clone(), SETTINGS);
                if opened.is_ok() {
                    break;
                }
                every_power_cut(&memory, 41, |memory| {
                    cuts += 1;
                    let mut host = host.elsewhere();
                    host.memory = memory.clone();
                    host.reopen();
                });
            }
        }
    }
    println!("{deaths} deaths, {cuts} power cuts");
    assert!(cuts > 1000);
}

#[derive(Clone, Debug)]
enum Event {
    Act(Act),
    Fault(usize, usize, Fault),
    Reopen,
    PowerCut(Vec<Kept>),
}

fn event() -> impl Strategy<Value = Event> {
    let act = prop_oneof![
        Just(Act::Append(&["x"])),
        Just(Act::Append(&["yy", "yyy"])),
        Just(Act::Append(
            &["a long one, that fills more than a sector with its like"; 20]
        )),
        Just(Act::Roll),
    ];
    let fault = prop_oneof![
        Just(Fault::NoSpace),
        Just(Fault::Io),
        Just(Fault::IoThoughDone),
        Just(Fault::Death),
    ];
    let kept = prop_oneof![
        Just(Kept::All),
        Just(Kept::Nothing),
        (0..2000_usize).prop_map(Kept::Bytes),
        (0..2000_usize).prop_map(Kept::Garbled),
    ];
    prop_oneof![
        6 => act.prop_map(Event::Act),
        2 => (0..9_usize, 1..5_usize, fault).prop_map(|(after, times, fault)| Event::Fault(after, times, fault)),
        1 => Just(Event::Reopen),
        2 => proptest::collection::vec(kept, 1..6).prop_map(Event::PowerCut),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn whatever_comes_in_whatever_order_nothing_acknowledged_is_lost(
        events in proptest::collection::vec(event(), 1..40),
    ) {
        let memory = Memory::new();
        let mut host = Host::new(&memory).unwrap();
        for event in events {
            match event {
                Event::Act(act) => drop(host.act(&act)),
                Event::Fault(after, times, fault) => memory.fail(after, times, fault),
                Event::Reopen => {
                    memory.revive();
                    host.reopen();
                }
                Event::PowerCut(kept) => {
                    let mut kept = kept.iter().cycle();
                    memory.power_cut(|_| *kept.next().unwrap());
                    host.reopen();
                }
            }
        }
        memory.revive();
        host.reopen();
        host.goes_on();
    }
}
