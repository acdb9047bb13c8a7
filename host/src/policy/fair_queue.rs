//! A queue in which no caller's burst makes the others wait behind it.
//!
//! In one line for all, who sends a thousand calls at once has the next thousand turns, and who sends one now and then
//! waits for all of them. Here each caller has a line of its own, first in, first out, and the lines take turns: where
//! `k` callers wait, each has every `k`-th turn.
//!
//! The places are for all together, so the one with the longest line could keep the others out all the same. Therefore,
//! when all places are taken, a newcomer whose caller has less than its share of them (all places, divided by those who
//! wait) gets the place of the newest in the longest line. Whoever has its share or more is refused.
//!
//! Lines are looked through one by one: there are as many as callers that wait, and those are services.

use std::{collections::VecDeque, sync::Arc};

/// A queue of `T` with a line for each caller.
#[derive(Debug)]
pub struct FairQueue<T> {
    /// Those that are not empty, in the order of their turns.
    lines: VecDeque<Line<T>>,
    length: usize,
    places: usize,
}

#[derive(Debug)]
struct Line<T> {
    caller: Arc<str>,
    waiting: VecDeque<T>,
}

/// What became of a newcomer.
#[derive(Debug, PartialEq, Eq)]
pub enum Pushed<T> {
    /// There was room.
    Waits,
    /// There was none, and it has the place of this one, which was the newest of the caller with the most.
    InPlaceOf(T),
    /// There was none, and its caller has its share already.
    Refused(T),
}

// === impl FairQueue ===

impl<T> FairQueue<T> {
    /// An empty queue with room for so many.
    pub fn new(places: usize) -> Self {
        Self { lines: VecDeque::new(), length: 0, places }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Whether all places are taken.
    pub fn is_full(&self) -> bool {
        self.length >= self.places
    }

    /// How many would have their turn before one of `caller` that came now, if nobody came after it.
    pub fn ahead_of(&self, caller: &Arc<str>) -> usize {
        let own = self.line_of(caller).unwrap_or(self.lines.len());
        let own_length = self.lines.get(own).map_or(0, |line| line.waiting.len());
        let before = |(at, line): (usize, &Line<T>)| match at {
            at if at == own => own_length,
            // Those whose turn comes first have one turn more until then.
            at => line.waiting.len().min(own_length + usize::from(at < own)),
        };
        self.lines.iter().enumerate().map(before).sum()
    }

    /// Puts one at the end of its caller's line.
    pub fn push(&mut self, caller: &Arc<str>, newcomer: T) -> Pushed<T> {
        if !self.is_full() {
            self.put(caller, newcomer);
            return Pushed::Waits;
        }
        let own = self.line_of(caller);
        let callers = self.lines.len() + usize::from(own.is_none());
        if own.map_or(0, |at| self.lines[at].waiting.len()) >= self.places / callers {
            return Pushed::Refused(newcomer);
        }
        // Somebody has more than a share then, so this line is not empty afterwards.
        let longest = self.lines.iter_mut().max_by_key(|line| line.waiting.len());
        let Some(displaced) = longest.and_then(|line| line.waiting.pop_back()) else {
            return Pushed::Refused(newcomer);
        };
        self.length -= 1;
        self.put(caller, newcomer);
        Pushed::InPlaceOf(displaced)
    }

    /// Puts back one that was taken out already: the next turn is its own. There is always room for it.
    pub fn push_front(&mut self, caller: &Arc<str>, returned: T) {
        let line = self.line_of(caller).and_then(|at| self.lines.remove(at));
        let mut line = line.unwrap_or_else(|| Line::new(caller));
        line.waiting.push_front(returned);
        self.lines.push_front(line);
        self.length += 1;
    }

    /// Takes out the one whose turn it is. Those that are `gone` are passed over, at no cost to their callers.
    pub fn pop(&mut self, mut gone: impl FnMut(&T) -> bool) -> Option<T> {
        while let Some(mut line) = self.lines.pop_front() {
            while let Some(next) = line.waiting.pop_front() {
                self.length -= 1;
                if gone(&next) {
                    continue;
                }
                if !line.waiting.is_empty() {
                    self.lines.push_back(line);
                }
                return Some(next);
            }
        }
        None
    }

    /// Makes room where somebody is `gone`.
    pub fn remove(&mut self, mut gone: impl FnMut(&T) -> bool) {
        for line in &mut self.lines {
            line.waiting.retain(|waiting| !gone(waiting));
        }
        self.lines.retain(|line| !line.waiting.is_empty());
        self.length = self.lines.iter().map(|line| line.waiting.len()).sum();
    }

    fn put(&mut self, caller: &Arc<str>, newcomer: T) {
        let at = self.line_of(caller).unwrap_or_else(|| {
            self.lines.push_back(Line::new(caller));
            self.lines.len() - 1
        });
        self.lines[at].waiting.push_back(newcomer);
        self.length += 1;
    }

    fn line_of(&self, caller: &Arc<str>) -> Option<usize> {
        // Mostly the very same string.
        self.lines.iter().position(|line| Arc::ptr_eq(&line.caller, caller) || line.caller == *caller)
    }
}

// === impl Line ===

impl<T> Line<T> {
    fn new(caller: &Arc<str>) -> Self {
        Self { caller: Arc::clone(caller), waiting: VecDeque::new() }
    }
}

#[cfg(test)]
mod tests;
