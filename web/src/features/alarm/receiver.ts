// A receiver as its dialog has it, and what becomes of it. Pure.
import type { AlarmSeverity, Receiver } from '$lib/api/types';
import { metadataOf } from '../apply/metadata';

type Email = Extract<Receiver['spec']['via'], { email: unknown }>['email'];

export interface ReceiverDraft {
  name: string;
  via: 'webhook' | 'email';
  url: string;
  server: string;
  encryption: NonNullable<Email['encryption']>;
  /** The usual one if empty. */
  port: number | null;
  username: string;
  from: string;
  to: string;
  /** The header of a webhook, the password of a mail server; what is stored stays if it is empty. */
  secret: string;
  severity: AlarmSeverity;
  alarms: string[];
}

export function receiverDraftOf(receiver: Receiver | undefined): ReceiverDraft {
  const via = receiver?.spec.via;
  const webhook = via && 'webhook' in via ? via.webhook : undefined;
  const email = via && 'email' in via ? via.email : undefined;
  return {
    name: receiver?.metadata.name ?? '',
    via: email ? 'email' : 'webhook',
    url: webhook?.url ?? '',
    server: email?.server ?? '',
    encryption: email?.encryption ?? 'starttls',
    port: email?.port ?? null,
    username: email?.username ?? '',
    from: email?.from ?? '',
    to: email?.to.join(', ') ?? '',
    secret: '',
    severity: receiver?.spec.severity ?? 'warning',
    alarms: [...(receiver?.spec.alarms ?? [])],
  };
}

export function receiverOf(draft: ReceiverDraft, before?: Receiver): Receiver & { kind: 'receiver' } {
  return {
    kind: 'receiver',
    metadata: metadataOf(draft.name, before),
    spec: {
      ...(before?.spec.enabled === false ? { enabled: false } : {}),
      via: draft.via === 'webhook' ? { webhook: webhookOf(draft) } : { email: emailOf(draft) },
      severity: draft.severity,
      ...(draft.alarms.length > 0 ? { alarms: draft.alarms } : {}),
    },
  };
}

function webhookOf({ url, secret }: ReceiverDraft) {
  return { url: url.trim(), ...(secret ? { authorization: secret } : {}) };
}

function emailOf(draft: ReceiverDraft): Email {
  return {
    server: draft.server.trim(),
    ...(draft.port ? { port: draft.port } : {}),
    encryption: draft.encryption,
    ...(draft.username.trim() ? { username: draft.username.trim() } : {}),
    ...(draft.secret ? { password: draft.secret } : {}),
    from: draft.from.trim(),
    // A name may stand before an address: `Gantry <gantry@example.org>`.
    to: draft.to.split(/[,\n]+/).map((one) => one.trim()).filter(Boolean),
  };
}

/** Where it goes, for people. */
export function targetWords({ spec: { via } }: Receiver): string {
  return 'webhook' in via ? via.webhook.url : via.email.to.join(', ');
}

/** What is stored is kept only for the place that it was given for. */
export function keepsSecret(draft: ReceiverDraft, before: Receiver | undefined): boolean {
  if (!before?.status?.has_secret) return false;
  const was = receiverDraftOf(before);
  const place = ({ via, url, server, encryption, port, username }: ReceiverDraft) =>
    JSON.stringify(via === 'webhook' ? [via, url.trim()] : [via, server.trim(), encryption, port || null, username.trim()]);
  return place(was) === place(draft);
}
