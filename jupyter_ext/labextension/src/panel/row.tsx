import { closeIcon, type LabIcon, refreshIcon, stopIcon, terminalIcon } from '@jupyterlab/ui-components';
import type { TranslationBundle } from '@jupyterlab/translation';
import React, { memo } from 'react';
import { changesIcon, logsIcon, tierIcon } from '../icons';
import { bytes, duration, imageName } from '../model/figures';
import type { Sample } from '../model/history';
import { CommandIDs } from '../model/tokens';
import { isAlive, type Sandbox } from '../model/types';
import * as words from '../words';
import { MemoryMeter, ProcessorLine } from './meters';

export interface RowProps {
  sandbox: Sandbox;
  samples: readonly Sample[];
  /** Its age in words; a row is drawn anew only when something that it shows has changed. */
  age: string;
  isOpen: boolean;
  toggle: (id: string, open: boolean) => void;
  execute: (command: string, id: string) => void;
  trans: TranslationBundle;
}

/** One sandbox in the panel: two lines, its use, and, where it is open, what can be done and all that is known. */
export const Row = memo(function Row(props: RowProps): JSX.Element {
  const { sandbox, isOpen, toggle, trans } = props;
  const details = `hyper-details-${sandbox.id}`;
  return (
    <li className={`hyper-Row ${isAlive(sandbox) ? '' : 'hyper-mod-ended'}`} data-sandbox={sandbox.id}>
      <button
        className="hyper-Row-head"
        aria-expanded={isOpen}
        aria-controls={details}
        onClick={() => toggle(sandbox.id, !isOpen)}
      >
        <Tier sandbox={sandbox} trans={trans} />
        <span className="hyper-Row-name">{words.title(sandbox)}</span>
        <State sandbox={sandbox} trans={trans} />
        <span className="hyper-Row-about">{about(props)}</span>
      </button>
      {isAlive(sandbox) && <Use {...props} />}
      {isOpen && <Details {...props} id={details} />}
    </li>
  );
});

/** How old something is, in words; of what is younger than a minute, nothing that changes each second. */
export function age(since_s: number, now_s: number, trans: TranslationBundle): string {
  const seconds = now_s - since_s;
  return seconds < 60 ? trans.__('just now') : duration(seconds);
}

function about({ sandbox, age, trans }: RowProps): string {
  const removed = words.removedCount(sandbox);
  const parts = [imageName(sandbox.image), age];
  return (removed ? [...parts, trans.__('%1 removed', removed)] : parts).join(' · ');
}

function Tier({ sandbox, trans }: { sandbox: Sandbox; trans: TranslationBundle }): JSX.Element {
  const label = words.tier(sandbox, trans);
  const icon = tierIcon(sandbox.tier);
  return (
    <span role="img" aria-label={label} title={label}>
      <icon.react tag="span" elementSize="normal" />
    </span>
  );
}

function State({ sandbox, trans }: { sandbox: Sandbox; trans: TranslationBundle }): JSX.Element {
  const kind = !isAlive(sandbox) ? (sandbox.death ? 'died' : 'ended') : sandbox.activity || sandbox.state;
  return (
    <span className={`hyper-State hyper-mod-${kind}`}>
      <span className="hyper-State-dot" aria-hidden="true" />
      {words.state(sandbox, trans)}
    </span>
  );
}

function Use({ sandbox, samples, trans }: RowProps): JSX.Element {
  const { memory_bytes } = sandbox.usage;
  return (
    <div className="hyper-Use">
      <MemoryMeter sandbox={sandbox} trans={trans} />
      <span aria-hidden="true">{memory_bytes === null ? '–' : bytes(memory_bytes)}</span>
      <ProcessorLine sandbox={sandbox} samples={samples} trans={trans} />
      <span aria-hidden="true">{words.processor(sandbox)}</span>
    </div>
  );
}

function Actions({ sandbox, execute, trans }: RowProps): JSX.Element {
  const alive = isAlive(sandbox);
  const running = sandbox.state === 'running';
  const all: [string, string, LabIcon, boolean][] = [
    [CommandIDs.terminal, trans.__('Terminal'), terminalIcon, running],
    [CommandIDs.review, trans.__('Changed files'), changesIcon, sandbox.files === 'copy'],
    [CommandIDs.logs, trans.__('Logs'), logsIcon, true],
    [CommandIDs.interrupt, trans.__('Interrupt'), stopIcon, running],
    [CommandIDs.restart, trans.__('Restart'), refreshIcon, alive || sandbox.kernel !== null],
    [CommandIDs.stop, trans.__('Stop'), closeIcon, alive]
  ];
  return (
    <div
      className="hyper-Actions"
      role="toolbar"
      aria-label={trans.__('Actions on %1', words.title(sandbox))}
    >
      {all
        .filter(([, , , isPossible]) => isPossible)
        .map(([command, label, icon]) => (
          <button key={command} title={label} aria-label={label} onClick={() => execute(command, sandbox.id)}>
            <icon.react tag="span" elementSize="normal" />
          </button>
        ))}
    </div>
  );
}

function Details(props: RowProps & { id: string }): JSX.Element {
  const { sandbox, trans } = props;
  const removed = Object.entries(sandbox.removed);
  return (
    <div className="hyper-Details" id={props.id}>
      <Actions {...props} />
      {sandbox.reason && <p className="hyper-Details-reason">{sandbox.reason}</p>}
      {sandbox.notes.map(note => (
        <p key={note}>{note}</p>
      ))}
      <dl>
        <Pair name={trans.__('Isolation')}>{words.tier(sandbox, trans)}</Pair>
        {sandbox.kernel?.path && (
          <Pair name={trans.__('Notebook')}>
            <button className="hyper-Link" onClick={() => props.execute(CommandIDs.openNotebook, sandbox.id)}>
              {sandbox.kernel.path}
            </button>
          </Pair>
        )}
        <Pair name={trans.__('Sandbox')}>{`${sandbox.name} (${sandbox.id.slice(0, 12)})`}</Pair>
        {words.limits(sandbox, trans).map(([name, text]) => (
          <Pair key={name} name={name}>
            {text}
          </Pair>
        ))}
        {sandbox.files && <Pair name={trans.__('Files')}>{words.files(sandbox.files, trans)}</Pair>}
        <Pair name={trans.__('Removed')}>
          {removed.length ? <RemovedList removed={removed} /> : trans.__('nothing')}
        </Pair>
      </dl>
    </div>
  );
}

/** What the firewall took out of its output, most first. */
export function RemovedList({ removed }: { removed: [string, number][] }): JSX.Element {
  return (
    <ul>
      {[...removed]
        .sort((one, other) => other[1] - one[1])
        .map(([what, count]) => (
          <li key={what}>{`${count} × ${what}`}</li>
        ))}
    </ul>
  );
}

function Pair({ name, children }: React.PropsWithChildren<{ name: string }>): JSX.Element {
  return (
    <>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </>
  );
}
