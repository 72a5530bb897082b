import React from 'react';
import { type Sample, sparkline } from '../model/history';

const WIDTH = 64;
const HEIGHT = 14;

/** A bar of how much of something is used; `part` is from 0 to 1. */
export function Meter({ label, part, text }: { label: string; part: number; text: string }): JSX.Element {
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
export function Sparkline(props: { label: string; samples: readonly Sample[]; most: number }): JSX.Element {
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
