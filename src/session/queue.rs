//! Prompts that wait for the one before them, in arrival order.

use crate::contract::prompt::Prompt;
use std::collections::VecDeque;

pub(super) struct Queue {
    prompts: VecDeque<Prompt>,
    limit: usize,
}

impl Queue {
    pub(super) fn new(limit: usize) -> Queue {
        Queue { prompts: VecDeque::new(), limit }
    }

    pub(super) fn len(&self) -> usize {
        self.prompts.len()
    }

    /// Adds a prompt at the front.
    pub(super) fn push_first(&mut self, prompt: Prompt) {
        self.prompts.push_front(prompt);
    }

    /// Adds a prompt at the end. Whether there is room is asked before a prompt is accepted.
    pub(super) fn push_last(&mut self, prompt: Prompt) {
        self.prompts.push_back(prompt);
    }

    pub(super) fn is_full(&self) -> bool {
        self.prompts.len() >= self.limit
    }

    pub(super) fn pop(&mut self) -> Option<Prompt> {
        let prompt = self.prompts.pop_front();
        if self.prompts.is_empty() {
            // An idle session, and there are a thousand of them, shall not keep room for prompts.
            self.prompts = VecDeque::new();
        }
        prompt
    }

    pub(super) fn first(&self) -> Option<&Prompt> {
        self.prompts.front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.prompts.is_empty()
    }

    /// Takes out the prompt of this id.
    pub(super) fn remove(&mut self, id: &str) -> Option<Prompt> {
        let at = self.prompts.iter().position(|prompt| prompt.message.id == id)?;
        self.prompts.remove(at)
    }

    pub(super) fn take_all(&mut self) -> Vec<Prompt> {
        std::mem::take(&mut self.prompts).into()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Prompt> {
        self.prompts.iter()
    }
}
