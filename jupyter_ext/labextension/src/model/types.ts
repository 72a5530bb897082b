/** What the server extension answers; `jupyter_ext/rest-api.yml` says what each field means. */

export interface Limits {
  cpu_percent: number;
  scratch_mib: number;
  processes: number;
  wall_s: number;
  cell_s: number;
  output_bytes: number;
  output_bytes_per_s: number;
}

export interface Usage {
  cpu_percent: number | null;
  memory_bytes: number | null;
  measured_s: number;
}

/** The Jupyter kernel that a sandbox runs. */
export interface Kernel {
  id: string;
  path: string;
  name: string;
  session: string;
  state: string;
}

export interface Sandbox {
  id: string;
  name: string;
  image: string;
  state: 'created' | 'booting' | 'running' | 'stopping' | 'exited';
  death: string;
  reason: string;
  exit_code: number;
  tier: string;
  activity: '' | 'busy' | 'idle' | 'hung';
  created_s: number;
  started_s: number;
  finished_s: number;
  memory_mib: number;
  cpus: number;
  limits: Limits;
  usage: Usage;
  removed: Record<string, number>;
  kernel: Kernel | null;
  folder: string;
  files: string;
  notes: string[];
}

export interface Status {
  version: string;
  hyperd: 'running' | 'stopped' | 'other version' | 'unreachable';
  hyperd_version: string;
  tier: 'hardware' | 'software' | 'unknown';
  tier_reason: string;
  sandboxes: number;
  alive: number;
  parked: number;
  policy_problem: string;
}

export interface Image {
  id: string;
  names: string[];
  created_s: number;
  size: number;
}

/** What one limit is by default, and at most; null is no limit. */
export interface Allowance {
  default: number | null;
  cap: number | null;
}

export interface Policy {
  file: string;
  ignored: string;
  problem: string;
  sandbox: Record<string, Allowance>;
  user: Record<string, { cap: number | null; used: number }>;
  output: { trusted: boolean };
  isolation: { tier: string };
  files: { modes: string[] };
}

/** What the next kernel of a notebook shall have. */
export interface Wish {
  path: string;
  image?: string;
  memory_mib?: number;
  cpus?: number;
  limits?: Partial<Limits>;
  files?: string;
}

export interface Change {
  path: string;
  /** The path with escapes for characters that could deceive. */
  shown: string;
  kind: 'added' | 'changed' | 'deleted';
  is_folder: boolean;
  size: number;
  digest: string;
  is_text: boolean;
  conflict: boolean;
  hidden: boolean;
  can_apply: boolean;
  reason: string;
}

/** A file on one side of a comparison; `text` is null for what is not text, or too long to show. */
export interface Side {
  size: number;
  digest: string;
  text: string | null;
}

export interface Comparison {
  path: string;
  is_text: boolean;
  before: Side | null;
  after: Side | null;
}

export interface Applied {
  applied: string[];
  refused: { path: string; reason: string; conflict: boolean; hidden: boolean }[];
}

export type Action = 'interrupt' | 'restart' | 'stop' | 'kill' | 'remove';

/** The event by which the server tells of a change of a sandbox. */
export interface SandboxEvent {
  schema_id: string;
  action: string;
  sandbox: string;
  kernel_id: string;
  death: string;
  reason: string;
}

/** Whether it has a machine, or is about to. */
export function isAlive(sandbox: Sandbox): boolean {
  return sandbox.state !== 'exited';
}
