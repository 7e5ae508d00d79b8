//! A bounded queue between threads that costs one atomic load while it is empty.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::sync::lock;

pub(super) struct Queue<T> {
    items: Mutex<VecDeque<T>>,
    length: AtomicUsize,
    bound: usize,
}

impl<T> Queue<T> {
    pub(super) fn new(bound: usize) -> Self {
        Self {
            items: Mutex::default(),
            length: AtomicUsize::new(0),
            bound,
        }
    }

    /// Append; when full, the oldest goes. Whether it fitted.
    pub(super) fn push(&self, item: T) -> bool {
        let mut items = lock(&self.items);
        let full = items.len() >= self.bound;
        if full {
            items.pop_front();
        }
        items.push_back(item);
        self.length.store(items.len(), Ordering::Release);
        !full
    }

    pub(super) fn pop(&self) -> Option<T> {
        if self.length.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut items = lock(&self.items);
        let item = items.pop_front();
        self.length.store(items.len(), Ordering::Release);
        item
    }
}
