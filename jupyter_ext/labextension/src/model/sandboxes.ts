import type { Event } from '@jupyterlab/services';
import { JSONExt, type ReadonlyPartialJSONValue } from '@lumino/coreutils';
import { DisposableDelegate, type IDisposable } from '@lumino/disposable';
import { Poll } from '@lumino/polling';
import { Signal } from '@lumino/signaling';
import { type Api, words } from './api';
import { remember, type Sample } from './history';
import type { ISandboxes } from './tokens';
import type { Action, Sandbox, SandboxEvent, Status } from './types';

const SCHEMA = 'https://events.hyper-kernel.org/sandbox/v1';
/** How often the server is asked while nobody looks at figures: events tell the rest. */
const CALM_MS = 30_000;
const LONGEST_MS = 120_000;
/** After so long without an answer people are told, in milliseconds: the answer itself may take a minute more. */
const SLOW_MS = 10_000;
const SLOW = 'No answer for 10 s: hyperd or the Jupyter server is busy, or hangs. What is shown may be old.';
/** A sandbox is new for so long, in seconds. */
const NEW_S = 60;

/** See {@link ISandboxes}. A hidden tab asks nothing; when it is seen again, it asks at once. */
export class Sandboxes implements ISandboxes {
  readonly changed = new Signal<this, void>(this);
  readonly happened = new Signal<this, SandboxEvent>(this);

  constructor(
    readonly api: Api,
    events: Event.IManager
  ) {
    this._poll = new Poll({
      name: 'hyper-kernel:sandboxes',
      factory: () => this._ask(),
      frequency: { interval: CALM_MS, backoff: true, max: LONGEST_MS },
      standby: 'when-hidden'
    });
    events.stream.connect((_, event) => this._hear(event));
    document.addEventListener('visibilitychange', () => {
      if (!document.hidden) {
        void this.refresh();
      }
    });
  }

  get all(): readonly Sandbox[] {
    return this._all;
  }

  get status(): Status | null {
    return this._status;
  }

  get problem(): string {
    return this._problem;
  }

  byId(id: string): Sandbox | undefined {
    return this._all.find(each => each.id === id);
  }

  byKernel(kernelId: string): Sandbox | undefined {
    return this._all.find(each => each.kernel?.id === kernelId);
  }

  history(id: string): readonly Sample[] {
    return this._history.get(id) ?? [];
  }

  async refresh(): Promise<void> {
    await this._poll.refresh();
    await this._poll.tick.catch(() => undefined);
  }

  async act(id: string, action: Action): Promise<void> {
    try {
      await this.api.act(id, action);
    } finally {
      void this.refresh();
    }
  }

  /** How often the server is asked while somebody looks, in milliseconds. */
  set interval(value: number) {
    this._interval = value;
    this._pace();
  }

  watch(): IDisposable {
    this._watchers += 1;
    this._pace();
    void this.refresh();
    return new DisposableDelegate(() => {
      this._watchers -= 1;
      this._pace();
    });
  }

  /** Often while somebody looks, and until what has just started was measured for the first time. */
  private _pace(): void {
    const interval = this._watchers || this._all.some(isUnmeasured) ? this._interval : CALM_MS;
    if (this._poll.frequency.interval !== interval) {
      this._poll.frequency = { interval, backoff: true, max: LONGEST_MS };
    }
  }

  private async _ask(): Promise<void> {
    const slow = setTimeout(() => {
      this._problem = SLOW;
      this.changed.emit();
    }, SLOW_MS);
    try {
      const [status, all] = await Promise.all([this.api.status(), this.api.sandboxes()]);
      this._status = status;
      this._take(all);
      this._problem = '';
    } catch (error) {
      this._problem = words(error);
      throw error; // the poll backs off
    } finally {
      clearTimeout(slow);
      this.changed.emit();
    }
  }

  private _take(all: Sandbox[]): void {
    const known = new Map(this._all.map(each => [each.id, each]));
    this._all = all.map(each => {
      const before = known.get(each.id);
      return before && isSame(before, each) ? before : each;
    });
    const history = new Map<string, readonly Sample[]>();
    for (const { id, usage } of this._all) {
      const samples = this.history(id);
      const { cpu_percent, measured_s } = usage;
      history.set(id, cpu_percent === null ? samples : remember(samples, measured_s, cpu_percent));
    }
    this._history = history;
    this._pace();
  }

  private _hear(event: Event.Emission): void {
    if (event.schema_id === SCHEMA) {
      this.happened.emit(event as unknown as SandboxEvent);
      void this.refresh();
    }
  }

  private _poll: Poll;
  private _watchers = 0;
  private _interval = 2_000;
  private _all: readonly Sandbox[] = [];
  private _status: Status | null = null;
  private _problem = '';
  private _history = new Map<string, readonly Sample[]>();
}

function isUnmeasured({ state, usage, started_s }: Sandbox): boolean {
  return state === 'running' && usage.memory_bytes === null && Date.now() / 1000 - started_s < NEW_S;
}

function isSame(one: Sandbox, other: Sandbox): boolean {
  return JSONExt.deepEqual(
    one as unknown as ReadonlyPartialJSONValue,
    other as unknown as ReadonlyPartialJSONValue
  );
}
