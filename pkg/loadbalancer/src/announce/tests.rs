//! A simulated LAN: frames are lost, doubled and late; nodes die, stop and come; the LAN is parted and healed.

use super::frame::{Asker, Frame, Heard};
use super::*;
use proptest::prelude::*;

/// The step of the simulation.
const STEP: Duration = Duration::from_millis(10);
/// After so much quiet all is in order.
const QUIET: Duration = Duration::from_secs(3);

fn mac(node: usize) -> Mac {
    Mac([2, 0, 0, 0, 0, node as u8 + 1])
}

fn addresses(count: usize) -> BTreeSet<IpAddr> {
    let all = ["192.0.2.10", "2001:db8::10", "192.0.2.11", "192.0.2.12", "2001:db8::11"];
    all.iter().take(count).map(|text| text.parse().unwrap()).collect()
}

/// A node: none while it does not run.
struct Node {
    announcer: Option<Announcer>,
    part: usize,
}

struct Lan {
    nodes: Vec<Node>,
    wanted: BTreeSet<IpAddr>,
    now: Instant,
    /// Frames under way: when they arrive, where, from whom.
    flying: Vec<(Instant, usize, Vec<u8>)>,
    loss: u64,
    dice: u64,
    /// When anything last happened to each part: parts with the same nodes alive ever since are in order.
    last_event: Instant,
    sent: usize,
}

impl Lan {
    fn new(nodes: usize, addresses_of_each: usize, dice: u64) -> Self {
        let now = Instant::now();
        let mut lan = Self {
            nodes: (0..nodes).map(|_| Node { announcer: None, part: 0 }).collect(),
            wanted: addresses(addresses_of_each),
            now,
            flying: Vec::new(),
            loss: 0,
            dice: dice | 1,
            last_event: now,
            sent: 0,
        };
        for node in 0..nodes {
            lan.start(node);
        }
        lan
    }

    fn roll(&mut self, sides: u64) -> u64 {
        // xorshift: a die whose history the seed decides.
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice % sides
    }

    fn start(&mut self, node: usize) {
        let mut announcer = Announcer::new(mac(node));
        announcer.set(self.now, &self.wanted);
        self.nodes[node].announcer.get_or_insert(announcer);
        self.last_event = self.now;
    }

    fn kill(&mut self, node: usize) {
        self.nodes[node].announcer = None;
        self.last_event = self.now;
    }

    fn part(&mut self, node: usize, part: usize) {
        self.nodes[node].part = part;
        self.last_event = self.now;
    }

    fn step(&mut self) {
        self.now += STEP;
        let (now, all) = (self.now, std::mem::take(&mut self.flying));
        let (arrived, flying) = all.into_iter().partition(|(at, ..)| *at <= now);
        self.flying = flying;
        for (_, node, frame) in arrived {
            if let (Some(announcer), Some(heard)) = (&mut self.nodes[node].announcer, Heard::read(&frame)) {
                announcer.hear(now, &heard);
            }
        }
        for from in 0..self.nodes.len() {
            let Some(announcer) = &mut self.nodes[from].announcer else { continue };
            announcer.tick(now);
            let frames: Vec<Frame> = std::iter::from_fn(|| announcer.take()).collect();
            self.sent += frames.len();
            for frame in frames {
                for to in 0..self.nodes.len() {
                    if to == from
                        || self.nodes[to].part != self.nodes[from].part
                        || self.roll(100) < self.loss
                    {
                        continue;
                    }
                    // One in ten comes twice, each after up to 20 ms.
                    for _ in 0..=u64::from(self.roll(10) == 0) {
                        let late = Duration::from_millis(self.roll(20));
                        self.flying.push((now + late, to, frame.bytes.clone()));
                    }
                }
            }
        }
    }

    fn holders(&self, part: usize, address: IpAddr) -> Vec<usize> {
        let holds = |node: &Node| {
            let mut states = node.announcer.iter().flat_map(Announcer::states);
            states.any(|(ip, state, _)| ip == address && matches!(state, State::Holder { .. }))
        };
        (0..self.nodes.len()).filter(|n| self.nodes[*n].part == part && holds(&self.nodes[*n])).collect()
    }

    /// Checks every part that has a node; `exact` when nothing was lost lately.
    fn check(&self, exact: bool) {
        let parts: BTreeSet<usize> =
            self.nodes.iter().filter(|n| n.announcer.is_some()).map(|n| n.part).collect();
        for part in parts {
            for address in &self.wanted {
                let holders = self.holders(part, *address);
                assert!(!holders.is_empty(), "nobody holds {address} in part {part}");
                if exact {
                    let best = self.best(part, *address);
                    assert_eq!(holders, [best], "{address} in part {part}");
                }
            }
        }
    }

    fn best(&self, part: usize, address: IpAddr) -> usize {
        let alive = (0..self.nodes.len())
            .filter(|n| self.nodes[*n].part == part && self.nodes[*n].announcer.is_some());
        alive.min_by_key(|n| Rank::of(address, mac(*n))).unwrap()
    }

    fn run(&mut self, time: Duration) {
        let (end, mut lossless) = (self.now + time, self.now);
        while self.now < end {
            self.step();
            if self.loss > 0 {
                lossless = self.now;
            }
            if self.now >= self.last_event + QUIET {
                self.check(self.now >= lossless.max(self.last_event) + QUIET);
            }
        }
    }
}

/// How long from now until somebody in part 0 holds the address.
fn until_held(lan: &mut Lan, address: IpAddr) -> Duration {
    let begun = lan.now;
    while lan.holders(0, address).is_empty() {
        lan.step();
        assert!(lan.now - begun < QUIET, "nobody holds {address}");
    }
    lan.now - begun
}

#[test]
fn a_dead_holder_is_replaced_within_three_seconds() {
    let mut worst = Duration::ZERO;
    for seed in 1..200 {
        let mut lan = Lan::new(4, 1, seed);
        let address = *lan.wanted.first().unwrap();
        lan.run(Duration::from_millis(3000 + 7 * seed));
        let holder = lan.holders(0, address)[0];
        lan.kill(holder);
        worst = worst.max(until_held(&mut lan, address));
    }
    println!("an address was without a holder for at most {worst:?}");
    assert!(worst <= SILENCE + SPREAD + STEP * 3);
}

#[test]
fn addresses_spread_over_the_nodes() {
    let mut shares = [0; 5];
    for last in 1..=250u8 {
        let address = IpAddr::from([198, 51, 100, last]);
        let best = (0..5).min_by_key(|node| Rank::of(address, mac(*node))).unwrap();
        shares[best] += 1;
    }
    assert!(shares.iter().all(|share| (30..=75).contains(share)), "{shares:?}");
}

#[test]
fn ranks_never_change_between_versions() {
    let rank = |text: &str| Rank::of(text.parse().unwrap(), mac(0)).0;
    assert_eq!((rank("192.0.2.10"), rank("2001:db8::10")), RANKS);
}
/// Nodes of different versions must agree on these.
const RANKS: (u64, u64) = (14_503_998_191_056_236_616, 13_612_446_661_358_096_009);

#[test]
fn a_parted_lan_has_a_holder_each_and_the_better_stays_when_it_heals() {
    let mut lan = Lan::new(4, 3, 7);
    lan.run(Duration::from_secs(4));
    for node in [0, 1] {
        lan.part(node, 1);
    }
    lan.run(Duration::from_secs(5));
    for node in [0, 1] {
        lan.part(node, 0);
    }
    lan.run(Duration::from_secs(4));
}

#[test]
fn a_quick_restart_moves_nothing() {
    let mut lan = Lan::new(3, 1, 3);
    let address = *lan.wanted.first().unwrap();
    lan.run(Duration::from_secs(4));
    let holder = lan.holders(0, address)[0];
    lan.kill(holder);
    lan.run(Duration::from_millis(300));
    lan.start(holder);
    let end = lan.now + QUIET;
    while lan.now < end {
        lan.step();
        let holders = lan.holders(0, address);
        assert!(holders.is_empty() || holders == [holder], "{holders:?}");
    }
    assert_eq!(lan.holders(0, address), [holder]);
}

#[test]
fn a_node_that_cannot_serve_falls_silent_at_once() {
    let mut lan = Lan::new(2, 1, 5);
    let address = *lan.wanted.first().unwrap();
    lan.run(Duration::from_secs(4));
    let holder = lan.holders(0, address)[0];
    let now = lan.now;
    let announcer = lan.nodes[holder].announcer.as_mut().unwrap();
    announcer.set(now, &BTreeSet::new());
    assert_eq!(announcer.wake(), None);
    announcer.hear(now, &Heard::Question { address, asker: None });
    announcer.tick(now + INTERVAL * 10);
    assert_eq!(announcer.take(), None);
    until_held(&mut lan, address);
    assert_eq!(lan.holders(0, address), [1 - holder]);
}

#[test]
fn only_the_holder_answers_and_only_for_its_addresses() {
    let mut lan = Lan::new(2, 2, 9);
    lan.run(Duration::from_secs(4));
    let address: IpAddr = "192.0.2.10".parse().unwrap();
    let asker = Asker { mac: Mac([2, 9, 9, 9, 9, 9]), ip: "192.0.2.99".parse().unwrap() };
    let holder = lan.holders(0, address)[0];
    let now = lan.now;
    for node in 0..2 {
        let announcer = lan.nodes[node].announcer.as_mut().unwrap();
        let strange = "192.0.2.77".parse().unwrap();
        announcer.hear(now, &Heard::Question { address: strange, asker: Some(asker) });
        assert_eq!(announcer.take(), None);
        announcer.hear(now, &Heard::Question { address, asker: Some(asker) });
        let answer = (node == holder).then(|| Frame::answer(address, mac(node), Some(asker)));
        assert_eq!(announcer.take(), answer);
    }
}

#[test]
fn a_holder_speaks_twice_a_second_and_a_backup_never() {
    let mut lan = Lan::new(3, 1, 11);
    lan.run(Duration::from_secs(4));
    lan.sent = 0;
    lan.run(Duration::from_secs(10));
    assert!((19..=21).contains(&lan.sent), "{}", lan.sent);
}

/// Something that happens to the LAN.
#[derive(Debug, Clone)]
enum Event {
    Start(usize),
    Kill(usize),
    Part(usize, usize),
    Heal,
    Loss(u64),
}

fn event() -> impl Strategy<Value = (Event, u64)> {
    let event = prop_oneof![
        (0..5usize).prop_map(Event::Start),
        (0..5usize).prop_map(Event::Kill),
        (0..5usize, 0..2usize).prop_map(|(node, part)| Event::Part(node, part)),
        Just(Event::Heal),
        // Ten in a hundred, and sometimes none.
        (0..2u64).prop_map(|some| Event::Loss(some * 10)),
    ];
    (event, 0..5000u64)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_each_part_soon_has_one_holder(
        history in prop::collection::vec(event(), 0..20), seed: u64, nodes in 1..=5usize,
    ) {
        let mut lan = Lan::new(nodes, 3, seed);
        for (event, pause) in history {
            match event {
                Event::Start(node) => lan.start(node % nodes),
                Event::Kill(node) => lan.kill(node % nodes),
                Event::Part(node, part) => lan.part(node % nodes, part),
                Event::Heal => (0..nodes).for_each(|node| lan.part(node, 0)),
                Event::Loss(loss) => lan.loss = loss,
            }
            lan.run(Duration::from_millis(pause));
        }
        lan.loss = 0;
        lan.last_event = lan.now;
        lan.run(QUIET + Duration::from_secs(2));
    }
}
