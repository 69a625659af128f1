//! `/metrics`: what the gateway counts, as Prometheus reads it.
//!
//! Everything is counted elsewhere already; it is gathered when somebody asks ([`figures`]), by the one list of what there is
//! ([`table`]), and written by prometheus-client ([`text`]). A key that is for some tools only sees all of it but other keys' figures, as in `/stats`:
//! so a key that fits no tool at all is good for watching, and for nothing else.
//!
//! **Limit.** Names in labels are bounded: servers and workers by the settings, tools by those that servers list now and that were
//! called, keys by [`figures::KEYS_MAX`].

use super::{Answer, Api};
use crate::access::Principal;

mod figures;
mod table;
mod text;

use figures::Figures;
use text::Format;

/// Everything, in the format that suits `accept` best.
pub(super) fn answer(api: &Api, principal: &Principal, accept: Option<&str>) -> Answer {
    let format = Format::for_client(accept);
    let text = text::write(&Figures::gather(api, &api.servers.now(), principal), format);
    let answer = Answer::text(format.content_type(), text);
    Answer { headers: vec![("Vary", "Accept".to_owned())], ..answer }
}
