//! Why: what all senders together may have in memory is one number, and each stream and principal has its share. Never lets a sender past an empty account, except once, for one batch.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, Weak},
};

use tokio::sync::Notify;

use super::{Window, control::Control, open::locked};

/// One level of credit. A batch is let in while anything is left, so a batch larger than what is left overdraws once; then nothing passes until enough is settled.
#[derive(Debug)]
struct Account {
    limit: Window,
    used: Mutex<Window>,
    freed: Notify,
    /// Whose units to cut when a sender waits here.
    members: Mutex<Vec<Weak<Control>>>,
}

impl Account {
    fn new(limit: Window) -> Arc<Self> {
        Arc::new(Self { limit, used: Mutex::default(), freed: Notify::new(), members: Mutex::default() })
    }

    fn take(&self, amount: Window) -> bool {
        let mut used = locked(&self.used);
        let open = |limit: u64, used: u64| limit == 0 || used < limit;
        let taken = open(self.limit.records, used.records) && open(self.limit.bytes, used.bytes);
        if taken {
            used.records += amount.records;
            used.bytes += amount.bytes;
        }
        taken
    }

    fn give_back(&self, amount: Window) {
        let mut used = locked(&self.used);
        used.records -= amount.records;
        used.bytes -= amount.bytes;
        drop(used);
        self.freed.notify_waiters();
    }

    /// Records that wait for company must not keep a sender waiting.
    fn press(&self) {
        locked(&self.members).retain(|member| member.upgrade().inspect(|control| control.press()).is_some());
    }

    async fn acquire(&self, amount: Window) {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if self.take(amount) {
                return;
            }
            self.press();
            freed.await;
        }
    }
}

/// The credits of one server.
#[derive(Debug)]
pub(super) struct Budget {
    all: Arc<Account>,
    principal_limit: Window,
    principals: Mutex<BTreeMap<String, Weak<Account>>>,
}

impl Budget {
    /// Bytes for all sessions and for those of one principal.
    pub(super) fn new(bytes: u64, principal_bytes: u64) -> Self {
        Self { all: Account::new(Window { records: 0, bytes }), principal_limit: Window { records: 0, bytes: principal_bytes }, principals: Mutex::default() }
    }

    /// Bytes that all sessions hold now.
    pub(super) fn used_bytes(&self) -> u64 {
        locked(&self.all.used).bytes
    }

    /// Credits of a stream of `principal`.
    pub(super) fn stream(&self, principal: &str, window: Window, control: &Arc<Control>) -> Credits {
        let mut principals = locked(&self.principals);
        principals.retain(|_, account| account.strong_count() > 0);
        let known = principals.get(principal).and_then(Weak::upgrade);
        let account = known.unwrap_or_else(|| {
            let account = Account::new(self.principal_limit);
            principals.insert(principal.to_owned(), Arc::downgrade(&account));
            account
        });
        let levels = vec![Account::new(window), account, self.all.clone()];
        for level in &levels {
            let mut members = locked(&level.members);
            members.retain(|member| member.strong_count() > 0);
            members.push(Arc::downgrade(control));
        }
        Credits { levels: levels.into() }
    }

    /// Credits that draw on nothing: for records that another stream has paid for already.
    pub(super) fn free() -> Credits {
        Credits { levels: Arc::new([Account::new(Window::default())]) }
    }
}

/// What a stream draws from, its own account first.
#[derive(Debug, Clone)]
pub(super) struct Credits {
    levels: Arc<[Arc<Account>]>,
}

impl Credits {
    /// Waits until every level has something left, then takes `amount` from each.
    pub(super) async fn acquire(&self, amount: Window) -> Credit {
        let mut credit = Credit { levels: self.levels.clone(), taken: 0, amount };
        for level in self.levels.iter() {
            level.acquire(amount).await;
            credit.taken += 1;
        }
        credit
    }

    /// What the stream holds.
    pub(super) fn outstanding(&self) -> Window {
        *locked(&self.levels[0].used)
    }
}

/// Credit that is given back when dropped.
#[derive(Debug)]
pub(super) struct Credit {
    levels: Arc<[Arc<Account>]>,
    taken: usize,
    amount: Window,
}

impl Drop for Credit {
    fn drop(&mut self) {
        for level in &self.levels[..self.taken] {
            level.give_back(self.amount);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn bytes(bytes: u64) -> Window {
        Window { records: 1, bytes }
    }

    #[test]
    fn one_batch_overdraws_and_the_next_waits_until_it_is_settled() {
        let budget = Budget::new(100, 0);
        let control = Arc::new(Control::default());
        let credits = budget.stream("p", Window { records: 0, bytes: 10 }, &control);
        let large = credits.acquire(bytes(25)).now_or_never().expect("the first batch always passes");
        assert_eq!((credits.outstanding().bytes, budget.used_bytes()), (25, 25));
        let mut next = Box::pin(credits.acquire(bytes(1)));
        assert!(next.as_mut().now_or_never().is_none());
        assert!(control.take_press(), "the session is told that a sender waits");
        drop(large);
        assert!(next.now_or_never().is_some());
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn a_greedy_stream_presses_the_others_of_the_same_server_and_principal_only() {
        let budget = Budget::new(100, 20);
        let (mine, other) = (Arc::new(Control::default()), Arc::new(Control::default()));
        let first = budget.stream("p", Window::default(), &mine);
        let stranger = budget.stream("q", Window::default(), &other);
        let held = first.acquire(bytes(20)).now_or_never().expect("there is credit");
        let second = budget.stream("p", Window::default(), &mine);
        assert!(second.acquire(bytes(1)).now_or_never().is_none(), "the principal's share is spent");
        assert!(stranger.acquire(bytes(1)).now_or_never().is_some());
        assert!(mine.take_press() && !other.take_press());
        drop(held);
        assert!(second.acquire(bytes(1)).now_or_never().is_some());
    }

    #[test]
    fn a_sender_that_gives_up_waiting_gives_back_what_it_had() {
        let budget = Budget::new(1, 0);
        let control = Arc::new(Control::default());
        let (a, b) = (budget.stream("p", Window::default(), &control), budget.stream("q", Window::default(), &control));
        let held = a.acquire(bytes(1)).now_or_never().expect("there is credit");
        assert!(b.acquire(bytes(1)).now_or_never().is_none());
        assert_eq!(b.outstanding(), Window::default());
        drop(held);
        assert_eq!(budget.used_bytes(), 0);
    }
}
