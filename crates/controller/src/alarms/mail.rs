//! Notices by e-mail (RFC 5321), one connection for each.

use std::time::Duration;

use gantry_types::{Email, MailEncryption, Notice, Resource};
use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{Mailbox, header::ContentType},
    transport::smtp::authentication::Credentials,
};

use super::{channel::headline, webhook::chain};

const LIMIT: Duration = Duration::from_secs(20);

pub(super) async fn send(email: &Email, datacenter: &str, notice: &Notice) -> Result<(), String> {
    let message = message(email, datacenter, notice)?;
    let failed = |error: lettre::transport::smtp::Error| chain(&error);
    let server = email.server.as_str();
    let builder = match email.encryption {
        MailEncryption::Starttls => AsyncSmtpTransport::<Tokio1Executor>::starttls_relay(server).map_err(failed)?,
        MailEncryption::Tls => AsyncSmtpTransport::<Tokio1Executor>::relay(server).map_err(failed)?,
        MailEncryption::None => AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(server),
    };
    let mut builder = builder.timeout(Some(LIMIT));
    if let Some(port) = email.port {
        builder = builder.port(port);
    }
    if let (Some(user), Some(password)) = (&email.username, &email.password) {
        builder = builder.credentials(Credentials::new(user.clone(), password.clone()));
    }
    let transport = builder.build();
    let sending = tokio::time::timeout(LIMIT, transport.send(message));
    let sent = sending.await.map_err(|_| format!("the mail server does not answer within {} s", LIMIT.as_secs()))?;
    sent.map(drop).map_err(failed)
}

fn message(email: &Email, datacenter: &str, notice: &Notice) -> Result<Message, String> {
    let address = |text: &str| text.parse::<Mailbox>().map_err(|error| format!("'{text}' is no address: {error}"));
    let spec = &notice.spec;
    let mut builder = Message::builder()
        .from(address(&email.from)?)
        .subject(format!("[{datacenter}] {}", headline(notice)))
        // The same when it is sent again.
        .message_id(Some(format!("<{}@gantry>", notice.name())))
        .header(ContentType::TEXT_PLAIN);
    for to in &email.to {
        builder = builder.to(address(to)?);
    }
    let severity = format!("{:?}", spec.severity).to_lowercase();
    let body = format!(
        "{}\n\nAlarm:    {} ({severity})\nObject:   {}/{}\nSince:    {}\n\ngantry alarm show {}\n",
        spec.message, spec.alarm, spec.object.kind, spec.object.name, spec.since, spec.alarm
    );
    builder.body(body).map_err(|error| chain(&error))
}

/// Whether mail can be sent to it, or from it.
pub(crate) fn is_address(text: &str) -> bool {
    text.parse::<Mailbox>().is_ok()
}
