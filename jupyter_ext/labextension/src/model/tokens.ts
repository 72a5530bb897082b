import { Token } from '@lumino/coreutils';
import type { IDisposable } from '@lumino/disposable';
import type { ISignal } from '@lumino/signaling';
import type { Api } from './api';
import type { Sample } from './history';
import type { Action, Sandbox, SandboxEvent, Status } from './types';

/** The sandboxes of the user, kept up to date while somebody looks. */
export interface ISandboxes {
  readonly api: Api;
  /** Newest first. An entry that has not changed is the same object as before. */
  readonly all: readonly Sandbox[];
  /** Null until the server has answered once. */
  readonly status: Status | null;
  /** Why the last question had no answer, for people; empty where all is well. */
  readonly problem: string;
  readonly changed: ISignal<ISandboxes, void>;
  /** What the server tells at once, before it is asked. */
  readonly happened: ISignal<ISandboxes, SandboxEvent>;
  byId(id: string): Sandbox | undefined;
  byKernel(kernelId: string): Sandbox | undefined;
  /** What a sandbox used of the processors in the last minute. */
  history(id: string): readonly Sample[];
  /** Ask the server now. */
  refresh(): Promise<void>;
  /** Do something to a sandbox, and refresh. */
  act(id: string, action: Action): Promise<void>;
  /** Ask often until what is returned is disposed of: somebody looks at figures. */
  watch(): IDisposable;
}

export const ISandboxes = new Token<ISandboxes>(
  'hyper-kernel:ISandboxes',
  'The sandboxes of the user: their state, their use, what happens to them.'
);

/** Commands that take `{id}`, a sandbox, unless they say otherwise. */
export namespace CommandIDs {
  /** `{cwd?}`: ask what a new notebook's sandbox shall have, and open it. */
  export const create = 'hyper:new-sandbox';
  export const showPanel = 'hyper:show-panel';
  export const interrupt = 'hyper:interrupt';
  export const restart = 'hyper:restart';
  export const stop = 'hyper:stop';
  export const openNotebook = 'hyper:open-notebook';
  export const logs = 'hyper:show-logs';
  export const terminal = 'hyper:open-terminal';
  export const review = 'hyper:review-files';
}

/** The domain of all texts. */
export const DOMAIN = 'hyper_kernel';
