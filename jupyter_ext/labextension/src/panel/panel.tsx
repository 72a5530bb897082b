import { ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { CommandRegistry } from '@lumino/commands';
import type { IDisposable } from '@lumino/disposable';
import React, { useCallback, useState } from 'react';
import { tierIcon } from '../icons';
import { bytes, imageName } from '../model/figures';
import type { ISandboxes } from '../model/tokens';
import { isAlive, type Sandbox, type Status } from '../model/types';
import * as words from '../words';
import { isFound, MANY } from './find';
import { age, Row } from './row';

/** The list of sandboxes, which asks for figures only while it is seen. */
export class SandboxList extends ReactWidget {
  /** @param _front - the sandbox of the notebook in front. */
  constructor(
    private readonly _model: ISandboxes,
    private readonly _commands: CommandRegistry,
    private readonly _front: () => string | undefined,
    private readonly _trans: TranslationBundle
  ) {
    super();
    this.addClass('hyper-List');
  }

  override dispose(): void {
    this._watch?.dispose();
    super.dispose();
  }

  protected override onAfterShow(): void {
    this._watch ??= this._model.watch();
  }

  protected override onAfterHide(): void {
    this._watch?.dispose();
    this._watch = null;
  }

  protected override render(): JSX.Element {
    return (
      <UseSignal signal={this._model.changed} initialSender={this._model}>
        {() => (
          <List model={this._model} commands={this._commands} front={this._front()} trans={this._trans} />
        )}
      </UseSignal>
    );
  }

  private _watch: IDisposable | null = null;
}

interface ListProps {
  model: ISandboxes;
  commands: CommandRegistry;
  /** The sandbox of the notebook in front, which is open unless somebody closes it. */
  front: string | undefined;
  trans: TranslationBundle;
}

function List({ model, commands, front, trans }: ListProps): JSX.Element {
  const [opened, setOpened] = useState<ReadonlyMap<string, boolean>>(new Map());
  const [query, setQuery] = useState('');
  const isOpen = (id: string) => opened.get(id) ?? id === front;
  const toggle = useCallback(
    (id: string, open: boolean) => setOpened(before => new Map(before).set(id, open)),
    []
  );
  const execute = useCallback(
    (command: string, id: string) => void commands.execute(command, { id }),
    [commands]
  );
  const now_s = Date.now() / 1000;
  const rows = (sandboxes: Sandbox[]) =>
    sandboxes.map(sandbox => (
      <Row
        key={sandbox.id}
        sandbox={sandbox}
        samples={model.history(sandbox.id)}
        age={age(sandbox.started_s || sandbox.created_s, now_s, trans)}
        isOpen={isOpen(sandbox.id)}
        toggle={toggle}
        execute={execute}
        trans={trans}
      />
    ));
  const found = model.all.filter(each => isFound(known(each, trans), query));
  const alive = found.filter(isAlive);
  const ended = found.filter(each => !isAlive(each));
  return (
    <>
      <Troubles model={model} trans={trans} />
      {(model.all.length > MANY || query) && <Search query={query} setQuery={setQuery} trans={trans} />}
      {query && !found.length ? (
        <p className="hyper-List-empty">{trans.__('No sandbox is like this.')}</p>
      ) : (
        <Sum alive={alive} trans={trans} />
      )}
      {alive.length > 0 && <ul aria-label={trans.__('Sandboxes that run')}>{rows(alive)}</ul>}
      {ended.length > 0 && (
        <>
          <h3>{trans.__('Ended')}</h3>
          <ul aria-label={trans.__('Sandboxes that ended')}>{rows(ended)}</ul>
        </>
      )}
      {model.status && <Host status={model.status} trans={trans} />}
    </>
  );
}

/** What a person may look for. */
function known(sandbox: Sandbox, trans: TranslationBundle): string[] {
  const { name, id, image, kernel } = sandbox;
  return [kernel?.path ?? '', name, id, imageName(image), words.state(sandbox, trans)];
}

interface SearchProps {
  query: string;
  setQuery: (query: string) => void;
  trans: TranslationBundle;
}

function Search({ query, setQuery, trans }: SearchProps): JSX.Element {
  const label = trans.__('Filter sandboxes by notebook, name, image or state');
  return (
    <input
      type="search"
      className="hyper-List-search"
      aria-label={label}
      title={label}
      placeholder={trans.__('Filter')}
      value={query}
      onChange={event => setQuery(event.target.value)}
    />
  );
}

function Sum({ alive, trans }: { alive: Sandbox[]; trans: TranslationBundle }): JSX.Element {
  if (!alive.length) {
    return (
      <p className="hyper-List-empty">
        {trans.__('No sandbox runs. A notebook with the kernel Hyper Python starts one.')}
      </p>
    );
  }
  const memory = alive.reduce((sum, each) => sum + (each.usage.memory_bytes ?? 0), 0);
  return (
    <p className="hyper-List-sum">
      {trans._n(
        '%1 sandbox runs, with %2 of memory',
        '%1 sandboxes run, with %2 of memory',
        alive.length,
        bytes(memory)
      )}
    </p>
  );
}

function Troubles({ model, trans }: { model: ISandboxes; trans: TranslationBundle }): JSX.Element {
  const { status, problem } = model;
  const said = [problem, status?.policy_problem ?? ''];
  if (status?.hyperd === 'other version') {
    said.push(
      trans.__(
        'hyperd is of version %1, this extension of %2: restart hyperd.',
        status.hyperd_version,
        status.version
      )
    );
  } else if (status?.hyperd === 'unreachable') {
    said.push(trans.__('hyperd does not answer.'));
  }
  return (
    <div role="status">
      {said.filter(Boolean).map(text => (
        <p key={text} className="hyper-List-trouble">
          {text}
        </p>
      ))}
    </div>
  );
}

function Host({ status, trans }: { status: Status; trans: TranslationBundle }): JSX.Element {
  return (
    <p className="hyper-List-host" title={status.tier_reason}>
      {React.createElement(tierIcon(status.tier).react, { tag: 'span', elementSize: 'small' })}
      {status.hyperd === 'stopped'
        ? trans.__('hyperd does not run; what starts a sandbox starts it.')
        : trans.__('This host: %1', words.tier(status, trans))}
    </p>
  );
}
