import type { TranslationBundle } from '@jupyterlab/translation';
import React from 'react';
import { share } from '../model/figures';
import { type Sample, sparkline } from '../model/history';
import type { Sandbox } from '../model/types';
import * as words from '../words';

const WIDTH = 64;
const HEIGHT = 14;

/** A bar of how much of something is used; `part` is from 0 to 1. */
function Meter({ label, part, text }: { label: string; part: number; text: string }): JSX.Element {
  const level = part > 0.9 ? 'hyper-mod-full' : part > 0.75 ? 'hyper-mod-high' : '';
  return (
    <span
      className={`hyper-Meter ${level}`}
      role="meter"
      aria-label={label}
      aria-valuemin={0}
      aria-valuemax={100}
      aria-valuenow={Math.round(part * 100)}
      aria-valuetext={text}
      title={`${label}: ${text}`}
    >
      <span style={{ width: `${part * 100}%` }} />
    </span>
  );
}

/** The processor time of the last minute; `most` is what the top edge stands for, in per cent of one processor. */
function Sparkline(props: { label: string; samples: readonly Sample[]; most: number }): JSX.Element {
  const line = sparkline(props.samples, props.most, WIDTH, HEIGHT - 2);
  return (
    <svg
      className="hyper-Sparkline"
      role="img"
      aria-label={props.label}
      viewBox={`0 -1 ${WIDTH} ${HEIGHT}`}
      preserveAspectRatio="none"
    >
      <title>{props.label}</title>
      <line className="hyper-Sparkline-base" x1="0" x2={WIDTH} y1={HEIGHT - 2} y2={HEIGHT - 2} />
      <path d={line} vectorEffect="non-scaling-stroke" />
    </svg>
  );
}

/** How much of its memory a sandbox uses. */
export function MemoryMeter({ sandbox, trans }: { sandbox: Sandbox; trans: TranslationBundle }): JSX.Element {
  const part = share(sandbox.usage.memory_bytes ?? 0, sandbox.memory_mib * 1024 * 1024);
  return <Meter label={trans.__('Memory')} part={part} text={words.memory(sandbox, trans)} />;
}

/** What a sandbox used of its processors in the last minute; the top edge is all that it may use. */
export function ProcessorLine(props: {
  sandbox: Sandbox;
  samples: readonly Sample[];
  trans: TranslationBundle;
}): JSX.Element {
  const { sandbox, samples, trans } = props;
  const label = trans.__('Processor, last minute: %1 now', words.processor(sandbox));
  return (
    <Sparkline label={label} samples={samples} most={sandbox.limits.cpu_percent || 100 * sandbox.cpus} />
  );
}
