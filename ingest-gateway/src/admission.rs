//! What a request is asked before its body is read: who sends it, for what, and whether that can
//! be taken at all. Everything is told by the head, so nothing here waits.

use std::sync::Arc;
use std::time::SystemTime;

use contract::Problem;
use http::HeaderValue;
use http::header::AUTHORIZATION;
use partners::{Denied, Partner, Scope};

use crate::body;
use crate::condition;
use crate::ingest::Gateway;
use crate::quota::Quota;
use crate::refusal::Refusal;
use crate::route::{self, MediaType, Target, Write};

/// What a request may go on with, by its head.
pub(crate) enum Admitted {
    OpenApi,
    Write(AdmittedWrite),
}

pub(crate) struct AdmittedWrite {
    pub(crate) partner_id: i32,
    pub(crate) quota: Option<Arc<Quota>>,
    pub(crate) write: Write,
    pub(crate) media_type: MediaType,
    pub(crate) body: body::Head,
}

impl Gateway {
    /// Whether a request may go on, as far as its head tells.
    ///
    /// # Errors
    /// What it would be refused for whatever its body holds.
    pub(crate) fn admit(
        &self,
        head: &http::request::Parts,
        target: Target,
    ) -> Result<Admitted, Refusal> {
        if target == Target::OpenApi {
            return Ok(Admitted::OpenApi);
        }
        let partner = self.partner(head)?;
        let mut write = target.write()?;
        let media_type = route::media_type(&head.headers, &write)?;
        condition::read(&head.headers, &mut write.form)?;
        let body = body::Head::read(&head.headers)?;
        self.check_log()?;
        let partner = partner.expect("writes are protected");
        Ok(Admitted::Write(AdmittedWrite {
            partner_id: partner.id,
            quota: self.quota(&partner, &body)?,
            write,
            media_type,
            body,
        }))
    }

    /// Whose request it is; `None` on routes that are anybody's.
    fn partner(&self, head: &http::request::Parts) -> Result<Option<Arc<Partner>>, Refusal> {
        if !route::is_protected(head.uri.path()) {
            return Ok(None);
        }
        let header = head.headers.get(AUTHORIZATION);
        let key = partners::authorization::key(header.map(HeaderValue::as_bytes));
        let Some(key) = key else {
            return Err(Refusal::new(
                Problem::Unauthorized,
                "send a partner's API key: `Authorization: Bearer KEY`, or the key as Basic user name",
            ));
        };
        let partner = self
            .partners
            .authenticate(&key, Scope::Ingest, SystemTime::now());
        partner.map(Some).map_err(denied)
    }

    /// The partner's limits, if it has any.
    ///
    /// # Errors
    /// What they would refuse whatever the body holds.
    fn quota(
        &self,
        partner: &Partner,
        body_head: &body::Head,
    ) -> Result<Option<Arc<Quota>>, Refusal> {
        let Some(quota) = self.quotas.of(partner) else {
            return Ok(None);
        };
        let length = body_head.decompressed_length();
        if let Err(refusal) = self.quotas.check(&quota, length) {
            // How many it has is not known.
            self.measures.rejected(refusal.problem, 1);
            return Err(refusal);
        }
        Ok(Some(quota))
    }

    /// Whether the log is there, so that a body is worth reading.
    fn check_log(&self) -> Result<(), Refusal> {
        let away = |detail| Err(Refusal::new(Problem::LogUnavailable, detail));
        let Some(log) = self.log.get() else {
            return away("the log has not been reached yet");
        };
        if log.link.is_away() {
            return away("the log cannot be reached");
        }
        if !log.link.is_sound() {
            return away("the log is not the one this gateway was started for");
        }
        Ok(())
    }
}

/// A key that does not open this door. Its problem never repeats it.
fn denied(denied: Denied) -> Refusal {
    let problem = match denied {
        Denied::Unknown | Denied::Expired | Denied::Revoked => Problem::Unauthorized,
        Denied::Scope(_) | Denied::Disabled => Problem::Forbidden,
        Denied::NotLoaded => Problem::PartnersUnavailable,
    };
    Refusal::new(problem, denied.to_string())
}
