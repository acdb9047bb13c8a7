//! What Redis does in one step: the scripts under `scripts/`, each documented in its file.
//!
//! Those that may run when Redis has no memory left say so (`allow-oom`): a full Redis refuses what is published, and must
//! go on delivering, or it would never be less full. The text is sent with each call. Redis knows it by its hash, and a
//! Redis that was restarted needs no second try.

use ::redis::{Cmd, cmd};

/// The text of a script.
#[derive(Clone, Copy)]
pub(super) struct Script(&'static str);

pub(super) const ACCOUNT: Script = Script(include_str!("scripts/account.lua"));
pub(super) const BEAT: Script = Script(include_str!("scripts/beat.lua"));
pub(super) const BEGIN: Script = Script(include_str!("scripts/begin.lua"));
pub(super) const BURY: Script = Script(include_str!("scripts/bury.lua"));
pub(super) const DROP: Script = Script(include_str!("scripts/drop.lua"));
pub(super) const DUE: Script = Script(include_str!("scripts/due.lua"));
pub(super) const FIRE: Script = Script(include_str!("scripts/fire.lua"));
pub(super) const PREPARE: Script = Script(include_str!("scripts/prepare.lua"));
pub(super) const READ: Script = Script(include_str!("scripts/read.lua"));
pub(super) const RELEASE: Script = Script(include_str!("scripts/release.lua"));
pub(super) const REPLAY: Script = Script(include_str!("scripts/replay.lua"));
pub(super) const REVIVE: Script = Script(include_str!("scripts/revive.lua"));
pub(super) const SCHEDULE: Script = Script(include_str!("scripts/schedule.lua"));
pub(super) const STOP: Script = Script(include_str!("scripts/stop.lua"));
pub(super) const TAKE: Script = Script(include_str!("scripts/take.lua"));
pub(super) const TRIM: Script = Script(include_str!("scripts/trim.lua"));

impl Script {
    /// The command that runs it on these keys; its arguments are to be added.
    pub(super) fn on<'k>(self, keys: impl IntoIterator<Item = &'k str>) -> Cmd {
        let keys: Vec<&str> = keys.into_iter().collect();
        let mut eval = cmd("EVAL");
        eval.arg(self.0).arg(keys.len()).arg(keys);
        eval
    }
}
