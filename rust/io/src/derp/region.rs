//! One relay region and the thread that serves it while it is needed.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_bytes::ByteArray;
use warren_core::derp::RawKey;
use warren_core::derp::frames::{self, Frame, parse_frame_untrusted};
use warren_core::seam::{Event, RelayNode};

use super::backoff::Backoff;
use super::detours::Detours;
use super::dial::{Dialer, Failure, Session};
use super::pace::Pace;
use super::queue::{Offer, Queue};
use super::stream::{Stream, words};
use super::tls::Judge;
use super::wake::{Wake, wait};
use crate::ports::RelaySink;

/// How long a region waits for what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Nothing for so long, and the relay is taken for dead; it says something every 65 s.
    pub(super) silence: Duration,
    /// When something is sent and nothing was heard for so long, the relay is asked ...
    pub(super) doubt: Duration,
    /// ... as after a nudge; an answer, or at least TCP's, must come within this time.
    pub(super) answer: Duration,
    /// A connection that is not home closes after so long without packets ...
    pub(super) idle: Duration,
    /// ... which is looked at so often.
    pub(super) idle_check: Duration,
}

impl Default for Patience {
    /// What PROTOCOL §4.2 and §4.6 say; doubt is ours. A router that forgot a connection drops
    /// what comes and says nothing: who only waits for the relay's word waits for minutes.
    fn default() -> Self {
        Self {
            silence: Duration::from_secs(120),
            doubt: Duration::from_secs(3),
            answer: Duration::from_secs(2),
            idle: Duration::from_secs(60),
            idle_check: Duration::from_secs(15),
        }
    }
}

const DOWN: u8 = 0;
const DIALING: u8 = 1;
const UP: u8 = 2;

/// What the pool wants of a region. `epoch` changes whenever a running connection is outdated.
#[derive(Clone, Default)]
struct Wanted {
    nodes: Arc<[RelayNode]>,
    private: Option<RawKey>,
    home: bool,
    forgotten: bool,
    epoch: u64,
    nudges: u64,
}

/// A region: what is wanted of it, its queue, and its state for others to see.
pub(super) struct Region {
    id: u16,
    wanted: Mutex<Wanted>,
    queue: Queue,
    wake: Wake,
    status: AtomicU8,
    /// Outlives the thread: what is sent on demand must not try a dead relay without end.
    backoff: Mutex<Backoff>,
    patience: Patience,
    judge: Arc<Judge>,
    detours: Detours,
    sink: Arc<dyn RelaySink>,
}

impl Region {
    pub(super) fn new(
        id: u16,
        judge: Arc<Judge>,
        sink: Arc<dyn RelaySink>,
        patience: Patience,
    ) -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            id,
            wanted: Mutex::default(),
            queue: Queue::default(),
            wake: Wake::new()?,
            status: AtomicU8::new(DOWN),
            backoff: Mutex::default(),
            patience,
            judge,
            detours: Detours::default(),
            sink,
        }))
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn backoff(&self) -> MutexGuard<'_, Backoff> {
        self.backoff
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Whether a connection is under way (`Some(false)`) or up (`Some(true)`).
    pub(super) fn status(&self) -> Option<bool> {
        match self.status.load(Ordering::Relaxed) {
            DIALING => Some(false),
            UP => Some(true),
            _ => None,
        }
    }

    /// Queue a packet; a thread that had to be started is handed out.
    pub(super) fn send(
        self: &Arc<Self>,
        dst: &RawKey,
        packet: &[u8],
    ) -> (bool, Option<JoinHandle<()>>) {
        match self.queue.offer(dst, packet) {
            Offer::Refused => (false, None),
            Offer::Queued { wake } => {
                if wake {
                    self.wake.wake();
                }
                (true, None)
            }
            Offer::Orphaned => (true, self.spawn()),
        }
    }

    /// Wait for room in the queue, at most for `max`.
    pub(super) fn wait_room(&self, max: Duration) -> bool {
        self.queue.wait_room(max)
    }

    /// Use other nodes from now on.
    pub(super) fn set_nodes(&self, nodes: Vec<RelayNode>) {
        let mut wanted = self.wanted();
        if wanted.nodes[..] != nodes[..] {
            wanted.nodes = nodes.into();
            wanted.epoch += 1;
            drop(wanted);
            self.wake.wake();
        }
    }

    /// Log in with this key from now on.
    pub(super) fn set_private(&self, private: Option<RawKey>) {
        let mut wanted = self.wanted();
        if wanted.private != private {
            wanted.private = private;
            wanted.epoch += 1;
            drop(wanted);
            self.wake.wake();
        }
    }

    /// Say whether this region is home: then it is connected always.
    pub(super) fn set_home(self: &Arc<Self>, home: bool) -> Option<JoinHandle<()>> {
        self.wanted().home = home;
        self.wake.wake();
        if home && self.queue.claim() {
            self.spawn()
        } else {
            None
        }
    }

    /// End the thread and never start another.
    pub(super) fn forget(&self) {
        let mut wanted = self.wanted();
        wanted.forgotten = true;
        wanted.home = false;
        wanted.epoch += 1;
        drop(wanted);
        self.queue.clear(true);
        self.wake.wake();
    }

    /// The network may have changed: ask the relay for a sign of life, and retry at once if down.
    pub(super) fn nudge(&self) {
        self.detours.clear();
        self.wanted().nudges += 1;
        self.wake.wake();
    }

    fn spawn(self: &Arc<Self>) -> Option<JoinHandle<()>> {
        let region = self.clone();
        let spawned = std::thread::Builder::new()
            .name(format!("relay-{}", self.id))
            .spawn(move || region.run());
        match spawned {
            Ok(handle) => Some(handle),
            Err(error) => {
                self.queue.clear(false);
                self.queue.release(|| false);
                self.report(
                    false,
                    format!("cannot start a thread: {error}"),
                    String::new(),
                );
                None
            }
        }
    }

    fn report(&self, connected: bool, error: String, health: String) {
        self.sink.on_event(Event::RegionState {
            region: self.id.into(),
            connected,
            error,
            health,
        });
    }

    /// The thread: connect, serve, and again, until nobody needs the region.
    fn run(&self) {
        let mut last_error = None;
        loop {
            let wanted = self.wanted().clone();
            let usable = !wanted.forgotten && !wanted.nodes.is_empty() && wanted.private.is_some();
            if !usable {
                self.queue.clear(wanted.forgotten);
            }
            if self.queue.release(|| usable && self.wanted().home) {
                self.status.store(DOWN, Ordering::Relaxed);
                return;
            }
            let Some(private) = wanted.private.filter(|_| usable) else {
                continue;
            };
            self.status.store(DIALING, Ordering::Relaxed);
            let dialer = Dialer {
                judge: &self.judge,
                detours: &self.detours,
                wake: &self.wake,
                called_off: &|| {
                    // After a nudge, addresses of before may lead nowhere: dial anew.
                    let now = self.wanted();
                    (now.epoch, now.nudges) != (wanted.epoch, wanted.nudges)
                },
                private,
            };
            match dialer.open(&wanted.nodes) {
                Ok(session) => {
                    last_error = None;
                    self.status.store(UP, Ordering::Relaxed);
                    self.report(true, String::new(), String::new());
                    let mut serving = Serving::new(self, session, wanted);
                    let end = serving.run();
                    let lasted = serving.since.elapsed();
                    self.status.store(DIALING, Ordering::Relaxed);
                    self.queue.clear(false);
                    self.backoff().ended(lasted, serving.restarting.take());
                    self.report(false, end.text().to_owned(), String::new());
                    if !matches!(end, End::Broken(_)) {
                        continue; // nothing speaks against the relay
                    }
                }
                Err(Failure::CalledOff) => continue,
                Err(Failure::Failed(text) | Failure::Turned(text)) => {
                    if last_error.as_ref() != Some(&text) {
                        self.report(false, text.clone(), String::new());
                        last_error = Some(text);
                    }
                }
            }
            let delay = self.backoff().next_delay();
            self.rest(delay);
        }
    }

    /// Wait out a backoff, refusing packets meanwhile; a change or a nudge ends it.
    fn rest(&self, delay: Duration) {
        if delay.is_zero() {
            return;
        }
        self.queue.clear(true);
        let (epoch, nudges) = {
            let wanted = self.wanted();
            (wanted.epoch, wanted.nudges)
        };
        let until = Instant::now() + delay;
        while Instant::now() < until {
            let wanted = self.wanted();
            if wanted.epoch != epoch || wanted.nudges != nudges {
                break;
            }
            drop(wanted);
            if wait(None, &self.wake, until).is_err() {
                std::thread::sleep(delay);
            }
        }
        let forgotten = self.wanted().forgotten;
        self.queue.clear(forgotten);
    }
}

/// Why a connection that was up is no more.
enum End {
    /// The pool wants something else.
    Outdated,
    /// Nobody used it.
    Idle,
    /// This machine lost the address that the connection came from.
    Moved,
    /// It failed; one sentence.
    Broken(String),
}

impl End {
    fn text(&self) -> &str {
        match self {
            Self::Outdated | Self::Idle => "",
            Self::Moved => "this machine's network changed",
            Self::Broken(text) => text,
        }
    }
}

/// A PING that waits for anything from the relay.
struct Question {
    asked: Instant,
    answer_by: Instant,
}

impl Question {
    /// A slow line, with much on its way in front of the question, has so much more time.
    const SLOW: u32 = 10;

    /// Whether an answer is due and nothing speaks for the relay's life.
    fn is_over(&mut self, now: Instant, patience: Duration, stream: &Stream) -> bool {
        if now < self.answer_by {
            return false;
        }
        if now < self.asked + patience * Self::SLOW && stream.is_acknowledged(patience / 2) {
            self.answer_by = now + patience;
            return false;
        }
        true
    }
}

/// A connection that is up, in the hands of its thread.
struct Serving<'a> {
    region: &'a Region,
    session: Session,
    wanted: Wanted,
    /// What we last told the relay about being home.
    told_home: bool,
    /// Frames of our own that go out first.
    replies: Vec<u8>,
    batch: Vec<u8>,
    since: Instant,
    heard: Instant,
    used: Instant,
    /// The relay was asked for a sign of life.
    question: Option<Question>,
    pace: Pace,
    /// What the relay said about its restart: come back in, try for.
    restarting: Option<(Duration, Duration)>,
}

impl<'a> Serving<'a> {
    fn new(region: &'a Region, session: Session, wanted: Wanted) -> Self {
        let now = Instant::now();
        Self {
            region,
            pace: Pace::new(
                session.limits.bytes_per_second,
                session.limits.burst_bytes,
                now,
            ),
            session,
            wanted,
            told_home: false,
            replies: Vec::new(),
            batch: Vec::new(),
            since: now,
            heard: now,
            used: now,
            question: None,
            restarting: None,
        }
    }

    fn run(&mut self) -> End {
        let end = match self.handle_frames(Instant::now()) {
            Ok(()) => self.serve().unwrap_or_else(|end| end),
            Err(end) => end,
        };
        self.session.stream.close();
        end
    }

    fn serve(&mut self) -> Result<End, End> {
        loop {
            let now = Instant::now();
            if let Some(end) = self.look_around(now) {
                return Ok(end);
            }
            self.transmit(now).map_err(broken)?;
            let stream = &self.session.stream;
            let socket = Some((stream.fd(), true, stream.is_blocked()));
            let ready = wait(socket, &self.region.wake, self.next_look()).map_err(broken)?;
            if ready.writable {
                self.session.stream.flush().map_err(broken)?;
            }
            if ready.readable {
                self.receive()?;
            }
        }
    }

    /// Take note of what the pool wants now and of time that has passed.
    fn look_around(&mut self, now: Instant) -> Option<End> {
        let wanted = self.region.wanted();
        if wanted.epoch != self.wanted.epoch {
            return Some(End::Outdated);
        }
        let (home, nudges) = (wanted.home, wanted.nudges);
        drop(wanted);
        if home != self.told_home {
            self.told_home = home;
            self.used = now;
            frames::push_note_preferred(&mut self.replies, home);
        }
        if nudges != self.wanted.nudges {
            self.wanted.nudges = nudges;
            if self.session.stream.has_lost_its_address() {
                return Some(End::Moved);
            }
            self.ask(now);
        }
        let patience = self.region.patience;
        let unanswered = self
            .question
            .as_mut()
            .is_some_and(|question| question.is_over(now, patience.answer, &self.session.stream));
        if unanswered || now >= self.heard + patience.silence {
            return Some(End::Broken("the relay fell silent".to_owned()));
        }
        (!home && now >= self.used + self.region.patience.idle && self.region.queue.is_empty())
            .then_some(End::Idle)
    }

    /// Have the relay say something soon.
    fn ask(&mut self, now: Instant) {
        if self.question.is_none() {
            self.question = Some(Question {
                asked: now,
                answer_by: now + self.region.patience.answer,
            });
            frames::push_frame(&mut self.replies, frames::PING, &[b"are you?"]);
        }
    }

    fn next_look(&self) -> Instant {
        let silence = self.heard + self.region.patience.silence;
        let silence = self.question.as_ref().map_or(silence, |q| q.answer_by);
        let idle = (!self.told_home).then(|| Instant::now() + self.region.patience.idle_check);
        [idle, self.pace.ready_at()]
            .into_iter()
            .flatten()
            .fold(silence, Instant::min)
    }

    /// Hand the queue to the stream once the stream is free: while the relay takes nothing, the
    /// queue fills up and senders feel it.
    fn transmit(&mut self, now: Instant) -> std::io::Result<()> {
        if self.session.stream.is_blocked() {
            return Ok(());
        }
        self.batch.clear();
        if self.pace.ready_at().is_none_or(|at| now >= at) {
            self.region.queue.take(&mut self.batch);
            if !self.batch.is_empty() {
                self.used = now;
                self.pace.spend(self.batch.len(), now);
                if now >= self.heard + self.region.patience.doubt {
                    self.ask(now);
                }
            }
        }
        let stream = &mut self.session.stream;
        for bytes in [&self.replies, &self.batch] {
            if !bytes.is_empty() {
                stream.queue(bytes)?;
            }
        }
        self.replies.clear();
        stream.flush()
    }

    fn receive(&mut self) -> Result<(), End> {
        let Session { stream, reader, .. } = &mut self.session;
        let received = stream.receive(&mut |bytes| reader.push(bytes));
        let now = Instant::now();
        // Frames that came before the end of the stream still count.
        self.handle_frames(now)?;
        if received.map_err(broken)? > 0 {
            self.heard = now;
            self.question = None;
        }
        Ok(())
    }

    fn handle_frames(&mut self, now: Instant) -> Result<(), End> {
        let (region, id) = (self.region, self.region.id);
        let mut packets = false;
        while let Some((kind, payload)) = self.session.reader.next_frame().map_err(broken)? {
            match parse_frame_untrusted(kind, payload).map_err(broken)? {
                Frame::RecvPacket { src, packet } => {
                    packets = true;
                    region.sink.on_packet(id, &src, packet);
                }
                Frame::Ping(data) => {
                    frames::push_frame(&mut self.replies, frames::PONG, &[&data]);
                }
                Frame::PeerGone { peer, reason } => {
                    region.sink.on_event(Event::PeerGone {
                        region: id.into(),
                        peer: ByteArray::new(peer),
                        reason,
                    });
                }
                Frame::Health(text) => region.report(true, String::new(), text.to_owned()),
                Frame::Restarting {
                    reconnect_in_ms,
                    try_for_ms,
                } => {
                    let ms = |ms: u32| Duration::from_millis(ms.into());
                    self.restarting = Some((ms(reconnect_in_ms), ms(try_for_ms)));
                    region.report(true, String::new(), "the relay is restarting".to_owned());
                }
                Frame::KeepAlive | Frame::Pong(_) | Frame::Other(_) => {}
            }
            // Pings cost the sender little; what they make us hold is bounded all the same.
            if self.replies.len() > super::queue::URGENT_LIMIT {
                self.replies.clear();
            }
        }
        if packets {
            self.used = now;
            region.sink.on_batch_end(id);
        }
        Ok(())
    }
}

fn broken(error: impl Into<Box<dyn std::error::Error>>) -> End {
    let error = error.into();
    End::Broken(match error.downcast_ref::<std::io::Error>() {
        Some(error) => words(error),
        None => error.to_string(),
    })
}
