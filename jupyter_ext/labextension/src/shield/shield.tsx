import type { ISessionContext } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import { ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import type { CommandRegistry } from '@lumino/commands';
import type { IDisposable } from '@lumino/disposable';
import React from 'react';
import { tierIcon } from '../icons';
import { duration, imageName } from '../model/figures';
import { CommandIDs, type ISandboxes } from '../model/tokens';
import { isAlive, type Sandbox } from '../model/types';
import { MemoryMeter, ProcessorLine } from '../panel/meters';
import { RemovedList } from '../panel/row';
import * as words from '../words';
import { longWords, type Place, placeOf, shortWords } from './place';
import { Popover } from './popover';

/** What all shields need. */
export interface Surroundings {
  model: ISandboxes;
  commands: CommandRegistry;
  trans: TranslationBundle;
  inSandboxes: (kernelspec: string) => boolean;
}

/** A button that says where a notebook runs, and on a click under which limits. */
export class Shield extends ReactWidget {
  /** @param withUse - whether memory in use stands beside it. */
  constructor(
    private readonly _around: Surroundings,
    private readonly _withUse: boolean
  ) {
    super();
    this.addClass('hyper-Shield');
    _around.model.changed.connect(this._onChanged, this);
  }

  /** The session of the notebook that it speaks of. */
  set context(context: ISessionContext | undefined) {
    this._context?.sessionChanged.disconnect(this._onChanged, this);
    this._context?.kernelChanged.disconnect(this._onKernel, this);
    this._context = context;
    context?.sessionChanged.connect(this._onChanged, this);
    context?.kernelChanged.connect(this._onKernel, this);
    this.update();
  }

  override dispose(): void {
    this.context = undefined;
    this._around.model.changed.disconnect(this._onChanged, this);
    super.dispose();
  }

  protected override render(): JSX.Element {
    const { model, trans, inSandboxes } = this._around;
    const place = placeOf(this._context, model, inSandboxes);
    const icon = tierIcon(
      place.kind === 'sandbox' ? place.sandbox.tier : place.kind === 'starting' ? '' : null
    );
    const use =
      this._withUse && place.kind === 'sandbox' && isAlive(place.sandbox)
        ? words.memory(place.sandbox, trans)
        : '';
    return (
      <button
        className={`hyper-Shield-button hyper-mod-${place.kind}`}
        title={longWords(place, trans)}
        aria-haspopup="dialog"
        aria-expanded="false"
        onClick={event => this._toggle(event.currentTarget, place)}
      >
        <icon.react tag="span" elementSize="normal" aria-hidden="true" />
        <span>{shortWords(place, trans)}</span>
        {use && <span className="hyper-Shield-use">{use}</span>}
      </button>
    );
  }

  private _toggle(anchor: HTMLElement, place: Place): void {
    Popover.toggle(
      anchor,
      this._around.trans.__('Where this notebook runs'),
      close =>
        new PlaceView(
          this._around,
          () => placeOf(this._context, this._around.model, this._around.inSandboxes),
          close
        )
    );
    if (place.kind === 'starting') {
      void this._around.model.refresh();
    }
  }

  private _onChanged(): void {
    this.update();
  }

  private _onKernel(): void {
    void this._around.model.refresh();
    this.update();
  }

  private _context: ISessionContext | undefined;
}

/** What the popover holds; its figures are fresh while it is open. */
class PlaceView extends ReactWidget {
  constructor(
    private readonly _around: Surroundings,
    private readonly _place: () => Place,
    private readonly _close: () => void
  ) {
    super();
    this._watch = _around.model.watch();
  }

  override dispose(): void {
    this._watch.dispose();
    super.dispose();
  }

  protected override render(): JSX.Element {
    const { model, trans } = this._around;
    return (
      <UseSignal signal={model.changed}>
        {() => {
          const place = this._place();
          return (
            <>
              <p>{longWords(place, trans)}</p>
              {place.kind === 'sandbox' && this._facts(place.sandbox)}
            </>
          );
        }}
      </UseSignal>
    );
  }

  private _facts(sandbox: Sandbox): JSX.Element {
    const { model, trans } = this._around;
    const removed = Object.entries(sandbox.removed);
    return (
      <>
        {isAlive(sandbox) && <Use sandbox={sandbox} model={model} trans={trans} />}
        <dl>
          {facts(sandbox, trans).map(([name, text]) => (
            <React.Fragment key={name}>
              <dt>{name}</dt>
              <dd>{text}</dd>
            </React.Fragment>
          ))}
        </dl>
        {removed.length > 0 && (
          <details>
            <summary>
              {trans._n(
                '%1 thing removed from its output',
                '%1 things removed from its output',
                words.removedCount(sandbox)
              )}
            </summary>
            <RemovedList removed={removed} />
          </details>
        )}
        <div className="hyper-Popover-links">
          {this._link(trans.__('All sandboxes'), CommandIDs.showPanel, sandbox)}
          {sandbox.files === 'copy' && this._link(trans.__('Changed files'), CommandIDs.review, sandbox)}
          {sandbox.state === 'running' && this._link(trans.__('Terminal'), CommandIDs.terminal, sandbox)}
        </div>
      </>
    );
  }

  private _link(label: string, command: string, sandbox: Sandbox): JSX.Element {
    const onClick = () => {
      this._close();
      void this._around.commands.execute(command, { id: sandbox.id });
    };
    return (
      <button className="jp-mod-styled jp-mod-minimal" onClick={onClick}>
        {label}
      </button>
    );
  }

  private readonly _watch: IDisposable;
}

function Use(props: { sandbox: Sandbox; model: ISandboxes; trans: TranslationBundle }): JSX.Element {
  const { sandbox, model, trans } = props;
  return (
    <div className="hyper-Popover-use">
      <span>{trans.__('Memory')}</span>
      <MemoryMeter sandbox={sandbox} trans={trans} />
      <span>{words.memory(sandbox, trans)}</span>
      <span>{trans.__('Processor')}</span>
      <ProcessorLine sandbox={sandbox} samples={model.history(sandbox.id)} trans={trans} />
      <span>{words.processor(sandbox)}</span>
    </div>
  );
}

/** What is known beside its use, each as what and how much. */
function facts(sandbox: Sandbox, trans: TranslationBundle): [string, string][] {
  const { wall_s } = sandbox.limits;
  const left = sandbox.started_s + wall_s - Date.now() / 1000;
  const apart = new Set([trans.__('Memory'), trans.__('Life time')]);
  return [
    [trans.__('State'), words.state(sandbox, trans)],
    [trans.__('Image'), imageName(sandbox.image)],
    ...(wall_s && isAlive(sandbox)
      ? [
          [trans.__('Time left'), trans.__('%1 of %2', duration(Math.max(left, 0)), duration(wall_s))] as [
            string,
            string
          ]
        ]
      : []),
    ...words.limits(sandbox, trans).filter(([name]) => !apart.has(name)),
    [trans.__('Files'), words.files(sandbox.files, trans)]
  ];
}
