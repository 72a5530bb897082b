import { Dialog, type ISessionContext, showErrorMessage } from '@jupyterlab/apputils';
import type { ITranslator, TranslationBundle } from '@jupyterlab/translation';
import { Widget } from '@lumino/widgets';
import { words } from '../model/api';
import { basename, mebibytes, moreMemory } from '../model/figures';
import { DOMAIN, type ISandboxes } from '../model/tokens';
import type { Sandbox, Wish } from '../model/types';
import { advice, details, headline, KILLED, OUT_OF_MEMORY } from './explain';
import { DEATH_CLASS, hushLab } from './rival';

/** How long after a death JupyterLab may still say something of it, in milliseconds: the server looks every 3 s. */
const NOTICE_MS = 30_000;
/** A death that is told twice is told within this, in milliseconds. */
const TWICE_MS = 5_000;

/** Watches over the kernel of one open notebook, and tells of its death. */
export class Mourner {
  constructor(
    private readonly _context: ISessionContext,
    private readonly _model: ISandboxes,
    private readonly _translator: ITranslator
  ) {
    this._trans = _translator.load(DOMAIN);
    _context.statusChanged.connect(this._onStatus, this);
    Dialog.tracker.widgetAdded.connect(this._onDialog, this);
    _context.disposed.connect(() => Dialog.tracker.widgetAdded.disconnect(this._onDialog, this));
  }

  /** The server says that its kernel has died. */
  hear(death: string, reason: string): void {
    if (death === KILLED && !this._isReturning()) {
      // Jupyter itself kills what it restarts or shuts down. What it did not mean to end, it starts again.
      this._heard = { death, reason, at: Date.now() };
    } else {
      void this._tell(death, reason);
    }
  }

  /** Tell why it died, once, and do what is chosen. */
  private async _tell(death: string, reason: string): Promise<void> {
    if (this._isAsking || Date.now() - this._told < TWICE_MS) {
      return;
    }
    this._isAsking = true;
    this._told = Date.now();
    this._returns = this._isReturning();
    hushLab(this._context, this._translator);
    const sandbox = await this._sandbox();
    const more = death === OUT_OF_MEMORY && sandbox ? await this._moreMemory(sandbox) : null;
    const chosen = await this._ask(death, reason || (sandbox?.reason ?? ''), more).finally(() => {
      this._isAsking = false;
    });
    try {
      if (chosen === 'more' && sandbox && more) {
        await this._model.api.wish(again(sandbox, this._path(), more));
        await this._restart();
      } else if (chosen === 'restart' && !this._returns) {
        await this._restart();
      }
    } catch (error) {
      await showErrorMessage(this._trans.__('The kernel did not start again'), words(error));
    }
  }

  private _path(): string {
    return this._context.session?.path ?? this._context.path;
  }

  private async _sandbox(): Promise<Sandbox | undefined> {
    const id = this._context.session?.kernel?.id ?? '';
    if (!this._model.byKernel(id)) {
      await this._model.refresh();
    }
    return this._model.byKernel(id);
  }

  private async _moreMemory(sandbox: Sandbox): Promise<number | null> {
    const policy = await this._model.api.policy().catch(() => null);
    return moreMemory(sandbox.memory_mib, policy?.sandbox.memory_mib?.cap ?? null);
  }

  private async _ask(death: string, reason: string, more: number | null): Promise<string | undefined> {
    const trans = this._trans;
    const told = details(death, reason);
    const buttons = [
      Dialog.cancelButton({ label: trans.__('Close') }),
      Dialog.createButton({ label: trans.__('Restart'), accept: true, actions: ['restart'] })
    ];
    if (more) {
      const label = trans.__('Restart with more memory (%1)', mebibytes(more));
      buttons.push(Dialog.createButton({ label, accept: true, actions: ['more'] }));
    }
    const dialog = new Dialog({
      title: headline(death, trans),
      body: body(
        trans.__('The kernel of %1 has died, and its variables are lost.', basename(this._path())),
        told && trans.__('What ended it: %1', told),
        advice(death, trans)
      ),
      buttons,
      defaultButton: buttons.length - 1
    });
    dialog.addClass(DEATH_CLASS);
    return (await dialog.launch()).button.actions[0];
  }

  private async _restart(): Promise<void> {
    await this._context.restartKernel();
    void this._model.refresh();
    if (this._context.session?.kernel?.status === 'dead') {
      throw new Error(
        this._context.session.kernel.model.reason || this._trans.__('Its sandbox did not start.')
      );
    }
  }

  private _isReturning(): boolean {
    return this._context.session?.kernel?.status === 'autorestarting';
  }

  /** JupyterLab has noticed that the kernel died, too. */
  private _onStatus(_: ISessionContext, status: string): void {
    if (status !== 'autorestarting' && status !== 'dead') {
      return;
    }
    this._returns = status === 'autorestarting';
    const heard = this._heard;
    this._heard = null;
    if (heard && Date.now() - heard.at < NOTICE_MS && this._returns) {
      void this._tell(heard.death, heard.reason);
    } else if (Date.now() - this._told < NOTICE_MS) {
      hushLab(this._context, this._translator);
    } else {
      void this._lookUp();
    }
  }

  /** JupyterLab's own word on a death may come any time after ours. */
  private _onDialog(): void {
    if (Date.now() - this._told < NOTICE_MS) {
      // It has to be on its way to the screen before it can be taken back.
      void Promise.resolve().then(() => hushLab(this._context, this._translator));
    }
  }

  /** No event told us of the death: ask the server, which may know its name. */
  private async _lookUp(): Promise<void> {
    await this._model.refresh();
    const sandbox = await this._sandbox();
    if (sandbox?.death) {
      await this._tell(sandbox.death, sandbox.reason);
    }
  }

  private readonly _trans: TranslationBundle;
  private _heard: { death: string; reason: string; at: number } | null = null;
  private _told = -Infinity;
  private _isAsking = false;
  /** Whether the server starts it again by itself. */
  private _returns = false;
}

/** What its next sandbox shall have: the same as the last, with more memory. */
function again(sandbox: Sandbox, path: string, memory_mib: number): Wish {
  const { scratch_mib, ...limits } = sandbox.limits;
  const isHalf = scratch_mib === sandbox.memory_mib / 2; // by itself: it shall grow, too
  return {
    path,
    image: sandbox.image,
    memory_mib,
    cpus: sandbox.cpus,
    limits: isHalf ? limits : { ...limits, scratch_mib },
    ...(sandbox.files && { files: sandbox.files })
  };
}

function body(...paragraphs: string[]): Widget {
  const widget = new Widget();
  for (const text of paragraphs.filter(Boolean)) {
    const paragraph = document.createElement('p');
    paragraph.textContent = text;
    widget.node.append(paragraph);
  }
  return widget;
}
